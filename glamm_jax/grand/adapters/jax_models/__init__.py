"""Adapters of this library's own models: class = "glamm" in a file of roles.

`sam_roles`: masks of boxes, and regions of everything, by SAM. `glamm_roles`: captions,
descriptions and phrases by GLaMM. `llama_role`: texts by a LLaMA.
"""

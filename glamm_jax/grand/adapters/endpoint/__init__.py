"""Models behind OpenAI-compatible endpoints: vLLM, llama.cpp, `glamm-jax serve`, and services.

`client`: requests, retries, limits. `usage`: what they cost. `language`, `vision`: the roles.
"""

"""Roles whose results are in files: masks of SA-1B, predictions of other tools, depth maps.

`sources`: where a file says something about an image. `roles`: what each role reads.
"""

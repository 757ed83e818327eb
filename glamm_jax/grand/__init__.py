"""GranD: automatic annotation of images in four levels.

`record` has the annotations of one image, `roles` the protocols of the models.
"""

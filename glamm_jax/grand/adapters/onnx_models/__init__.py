"""Models in ONNX or TFLite files, described by a small file: detectors, masks, classifiers.

`description`: what the file says. `images`: photographs to inputs. `decoding`: outputs to boxes.
`session`: onnxruntime or OpenCV. `detector`, `mask`, `tagger`: the roles.
"""

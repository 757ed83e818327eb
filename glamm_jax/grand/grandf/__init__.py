"""GranD_f: captions whose phrases have masks, made of datasets that people annotated.

`refcocog`: expressions of RefCOCOg, which a language model joins to a caption.
`open_psg`: relations of OpenPSG, which a language model writes as a caption.
`flickr30k`: captions of Flickr30k, whose boxes a segmenter turns into masks.
`caption_rewriting`: the requests to the language model, and the checks of its answers.
`build_files`: the files of GranD_f, resumable.

Source: glamm-paper.txt, section 4.6 and figure 14; the original's scripts are not published.
"""

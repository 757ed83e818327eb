"""The web app: questions about images in a browser. It speaks HTTP to a server of the API.

`page` builds the page with Gradio, and `handlers` are its events; no other module imports Gradio:
`conversation` (what a session has), `regions` (boxes and their `<bbox>`), `presets` and `examples`
(questions), `server_client` and `served_answer` (the API), `phrase_spans` and `views` (HTML),
`downloads` and `inpainting` (files and images made of an answer).
"""

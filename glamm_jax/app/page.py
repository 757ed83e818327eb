"""The page of the app, built with Gradio.

    settings = PageSettings(ServerClient("http://127.0.0.1:8000"), folder)
    page = launch_page(settings, "127.0.0.1", 7860)

The components are Gradio's. Its component for HTML shows the image and the transcript (`views`),
with the script `page.js` for what follows the pointer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr  # pyright: ignore[reportMissingImports]  # an extra

from glamm_jax.app.conversation import Conversation
from glamm_jax.app.handlers import Handlers, remove_folder
from glamm_jax.app.inpainting import pipeline_hint
from glamm_jax.app.page_settings import PageSettings
from glamm_jax.app.presets import OBJECT, PRESETS, REGION_PRESET, write_thumbnails
from glamm_jax.app.views import stage_html, transcript_html
from glamm_jax.text.questions import MAX_NEW_TOKENS

FOLDER = Path(__file__).parent
CONCURRENT_QUESTIONS = 16  # sent to the server at once; the server has a queue of its own
QUEUED_QUESTIONS = 128  # of this app; another one gets an error
MAX_UPLOAD = "32mb"
MAX_SESSIONS = 200  # the oldest one is forgotten; each has an image in memory
DEFAULT_OPACITY = 0.4
SESSION_SECONDS = 6 * 3600  # after which files and the state of a session are removed
SYSTEM_FONTS = ("system-ui", "sans-serif")  # Gradio's own would be loaded from the web
REFRESH_SCRIPT = "watch('value', () => window.glammRefresh?.());"
OPACITY_SCRIPT = "(v) => document.documentElement.style.setProperty('--glamm-opacity', v)"
# The word to replace is selected, so that typing replaces it.
SELECT_SCRIPT = f"""() => setTimeout(() => {{
  const box = document.querySelector('#glamm-question textarea');
  const start = box.value.indexOf('the {OBJECT} ');
  box.focus();
  if (start >= 0) box.setSelectionRange(start + 4, start + 4 + {len(OBJECT)});
}}, 100)"""


def launch_page(settings: PageSettings, host: str, port: int, root_path: str = "") -> gr.Blocks:
    """Start the app; it runs in threads until `close` of the result is called.

    Args:
        settings: of the page.
        host: address to listen at.
        port: of the app.
        root_path: path under which a proxy serves the app.
    """
    page = build_page(settings)
    page.queue(max_size=QUEUED_QUESTIONS, default_concurrency_limit=8)
    page.launch(
        server_name=host,
        server_port=port,
        root_path=root_path,
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        max_file_size=MAX_UPLOAD,
        state_session_capacity=MAX_SESSIONS,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        theme=_theme(),
        css=(FOLDER / "page.css").read_text(encoding="utf-8"),
    )
    return page


def _theme() -> gr.themes.Base:
    """Return Gradio's theme with fonts of the system, and texts of a contrast of at least 4.5."""
    theme = gr.themes.Default(
        primary_hue="blue", font=SYSTEM_FONTS, font_mono=("ui-monospace", "monospace")
    )
    return theme.set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover_dark="*primary_700",
    )


def build_page(settings: PageSettings) -> gr.Blocks:
    """Return the page with its events."""
    handlers = Handlers(settings)
    with gr.Blocks(
        title="GLaMM",
        analytics_enabled=False,
        delete_cache=(SESSION_SECONDS // 6, SESSION_SECONDS),
        fill_width=True,
    ) as page:
        state = gr.State(Conversation(), time_to_live=SESSION_SECONDS)
        folder = gr.State(None, time_to_live=SESSION_SECONDS, delete_callback=remove_folder)
        gr.Markdown("# GLaMM\nAsk about an image. Every phrase of the answer has a mask.")
        with gr.Row():
            with gr.Column(scale=5, min_width=360):
                upload = gr.File(label="Image: drop a file here, or click", height=140)
                examples = _examples(settings)
                stage = gr.HTML(
                    stage_html(Conversation()),
                    js_on_load=(FOLDER / "page.js").read_text(encoding="utf-8"),
                    apply_default_css=False,
                )
                opacity = gr.Slider(0, 1, DEFAULT_OPACITY, step=0.05, label="Opacity of the masks")
                sides, add_box = _box_by_numbers()
            with gr.Column(scale=6, min_width=360):
                transcript = gr.HTML(
                    transcript_html(Conversation()),
                    js_on_load=REFRESH_SCRIPT,
                    apply_default_css=False,
                    autoscroll=True,
                    max_height=560,
                    container=True,
                    padding=True,
                )
                with gr.Row():
                    names = (*PRESETS, REGION_PRESET)
                    presets = [gr.Button(name, size="sm", min_width=120) for name in names]
                question = gr.Textbox(
                    label="Question",
                    placeholder="Ask something about the image",
                    lines=2,
                    max_lines=6,
                    max_length=20_000,
                    elem_id="glamm-question",
                )
                with gr.Row():
                    ask = gr.Button("Ask", variant="primary", size="md")
                    stop = gr.Button("Stop", size="md")
                    restart = gr.Button("New conversation", size="md")
                with gr.Row():
                    files = [
                        gr.DownloadButton(name, size="sm", interactive=False, min_width=100)
                        for name in ("PNG", "JSON (COCO RLE)", "SVG")
                    ]
                options = _settings()
                masks = _painting(settings, handlers, state)
        four = [state, stage, transcript, question]
        quick: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        upload.upload(
            handlers.open_upload, [upload, state], [*four, upload, *files, masks], **quick
        )
        examples.click(handlers.open_example, examples, [*four, *files, masks], **quick)
        boxed = [state, stage, question]
        stage.box_drawn(handlers.draw_box, [state, question], boxed, **quick)
        stage.box_removed(handlers.remove_box, [state, question], boxed, **quick)
        add_box.click(handlers.add_box, [state, question, *sides], boxed, **quick)
        opacity.change(None, opacity, js=OPACITY_SCRIPT)
        for button in presets:
            selected = button.click(handlers.use_preset, [button, state], question, **quick)
            selected.then(None, js=SELECT_SCRIPT)
        asked = gr.on(
            [ask.click, question.submit],
            handlers.ask,
            [state, question, *options],
            [*four, masks],
            concurrency_limit=CONCURRENT_QUESTIONS,
            trigger_mode="once",
            **quick,
        )
        asked.then(handlers.write_files, [state, folder], [folder, *files], **quick)
        stop.click(handlers.show, state, [stage, transcript], cancels=[asked], **quick)
        restart.click(handlers.restart, state, [*four, *files, masks], cancels=[asked], **quick)
    return page


def _box_by_numbers() -> tuple[list[gr.Number], gr.Button]:
    """Return the fields of a box, for those who do not use a pointer, and the button."""
    with gr.Accordion("Draw a box by numbers", open=False):
        gr.Markdown("In percent of the width and height of the image.")
        with gr.Row():
            names = {"left": 25, "top": 25, "right": 75, "bottom": 75}
            sides = [
                gr.Number(value, label=name, minimum=0, maximum=100, min_width=70)
                for name, value in names.items()
            ]
        return sides, gr.Button("Add the box", size="sm")


def _examples(settings: PageSettings) -> gr.Dataset:
    """Return the examples as thumbnails; a click gives the index."""
    thumbnails = write_thumbnails(settings.examples, settings.folder)
    return gr.Dataset(
        label="Examples",
        components=[gr.Image(visible=False)],
        samples=[[str(path)] for path in thumbnails],
        type="index",
    )


def _settings() -> list[Any]:
    with gr.Accordion("Settings", open=False):
        return [
            gr.Slider(1, 1024, MAX_NEW_TOKENS, step=1, label="Largest number of tokens"),
            gr.Slider(0, 2, 0, step=0.1, label="Temperature (0: greedy decoding)"),
            gr.Slider(0.05, 1, 1, step=0.05, label="Nucleus sampling: probability mass"),
            gr.Number(0, label="Seed", precision=0, minimum=0, maximum=2**32 - 1),
        ]


def _painting(settings: PageSettings, handlers: Handlers, state: gr.State) -> gr.Dropdown:
    """Return the list of masks for conditional generation."""
    is_there = settings.pipeline is not None
    with gr.Accordion("Paint into a mask (conditional generation)", open=False):
        if not is_there:
            gr.Markdown(pipeline_hint())
        masks = gr.Dropdown(label="Mask of the last answer", choices=[], interactive=is_there)
        prompt = gr.Textbox(label="What to paint", max_length=1000, interactive=is_there)
        invert = gr.Checkbox(label="Paint everything but the mask", interactive=is_there)
        paint = gr.Button("Paint", interactive=is_there)
        painted = gr.Image(label="Painted image", format="png", visible=is_there)
        # One at a time: a pipeline is not made for several threads.
        paint.click(
            handlers.paint,
            [state, masks, prompt, invert],
            painted,
            concurrency_limit=1,
            api_visibility="private",
        )
    return masks

"""Page: fields on the left; gallery, trajectory and comparison on the right (Gradio)."""

from pathlib import Path
from typing import Any

import gradio as gr

from ddjax.data.conditions import CaptionTexts
from ddjax.demo import requests
from ddjax.demo.drawing import Studio
from ddjax.demo.events import Events
from ddjax.demo.requests import COUNTS, FIELDS, Request
from ddjax.method.ways import Way
from ddjax.pipeline import Pipeline

# All that draws waits in one line, since there is one device; who presses a button again while it
# draws gets what was asked for last. None of it is an API.
DEVICE = {"concurrency_id": "device", "concurrency_limit": 1, "api_visibility": "private",
          "show_progress": "minimal", "trigger_mode": "always_last"}

# What is drawn when the page opens.
FIRST_COUNT, FIRST_SEED = 4, 0
FIRST_METHODS = ("teacher_flow", "student_1step", "student_2step", "refine_1")

INTRODUCTION = (
    "The same noise through the teacher, group after group, and through a student in one or two "
    "passes. Equal columns have equal noise."
)


def build(studio: Studio, parts: set[str], name: str) -> tuple[gr.Blocks, Request]:
    """The page, and what it asks for when it opens.

    Args:
      studio: draws.
      parts: which models it has: "teacher", "student".
      name: of the run.
    """
    pipe, events = studio.pipe, Events(studio)
    offered = requests.methods(pipe, parts)
    first = [way.name for way in offered if way.name in FIRST_METHODS]
    # No telemetry and no look for newer versions: nothing outside this machine is asked.
    with gr.Blocks(title=f"ddjax: {name}", analytics_enabled=False) as page:
        gr.Markdown(f"# {name}\n\n{INTRODUCTION}")
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                fields, draw, other = _fields(pipe, offered, first)
            with gr.Column(scale=3, min_width=320), gr.Tabs():
                with gr.Tab("Gallery"):
                    shown = gr.HTML(elem_id="gallery", min_height=240)
                with gr.Tab("Trajectory"):
                    _trajectory(events, offered, pipe, fields)
                with gr.Tab("Compare"):
                    _compare(events, offered, fields)
        drawing = {"fn": events.gallery, "inputs": fields, "outputs": shown, **DEVICE}
        asked, seed = fields[0], fields[2]
        gr.on([draw.click, asked.submit, seed.submit], scroll_to_output=True, **drawing)
        other.click(
            lambda seed: int(seed or 0) + 1, seed, seed, queue=False, api_visibility="private"
        ).then(**drawing)
        page.load(**drawing)
    return page.queue(max_size=32), requests.read(
        pipe, _first_asked(pipe), FIRST_COUNT, FIRST_SEED, first, "", pipe.settings.guidance
    )


def _first_asked(pipe: Pipeline) -> str:
    """Two captions, or nothing, which means all classes in turn."""
    known = pipe.conditions
    is_text = isinstance(known, CaptionTexts)
    return "\n".join(known.title(i) for i in range(min(2, known.count))) if is_text else ""


def _fields(pipe: Pipeline, offered: list[Way], first: list[str]) -> tuple[list[Any], Any, Any]:
    """The fields in the order of `Events.read`, the button that draws, and the one for a seed."""
    known, guidance = pipe.conditions, pipe.settings.guidance
    if isinstance(known, CaptionTexts):
        asked = gr.Textbox(
            _first_asked(pipe), label="Prompt", info="one a line, taken in turn", lines=2,
            max_length=4000,
        )
    else:
        asked = gr.Textbox(
            "", label=FIELDS[known.key].capitalize(), placeholder="all in turn", max_length=4000,
            info=f"0 to {known.count - 1}; several with commas are taken in turn",
        )
    with gr.Row():
        seed = gr.Number(FIRST_SEED, label="Seed of the noise", precision=0, min_width=100)
        count = gr.Dropdown(list(COUNTS), value=FIRST_COUNT, label="Images", min_width=100)
    ticked = gr.CheckboxGroup([way.name for way in offered], value=first, label="Methods")
    with gr.Row():
        draw = gr.Button("Draw", variant="primary", min_width=100)
        other = gr.Button("Next seed", min_width=100)
    with gr.Accordion("Guidance, other methods", open=False):
        others = gr.Textbox(
            "", label="Other methods", info="by name, with commas between",
            placeholder="such as teacher_involved_2_6",
        )
        gr.Markdown("The teacher's guidance. The student has learned what it was trained for.")
        numbers = [
            gr.Slider(0, 10, guidance.scale, step=0.1, label="Guidance scale"),
            gr.Slider(0.1, 2, guidance.temperature, step=0.05, label="Temperature"),
            gr.Number(guidance.top_k, label="Top-k", info="0 keeps all", precision=0, minimum=0),
            gr.Slider(0.05, 1, guidance.top_p, step=0.01, label="Top-p"),
        ]
    return [asked, count, seed, ticked, others, *numbers], draw, other


def _trajectory(events: Events, offered: list[Way], pipe: Pipeline, fields: list[Any]) -> None:
    mapping = [way.name for way in offered if way.maps_noise]
    method = gr.Dropdown(mapping, value=mapping[0], label="Method")
    k = gr.Slider(0, pipe.groups.count, 0, step=1, label="k, groups that are tokens already")
    show = gr.Button("Show X_k")
    frames = gr.HTML(elem_id="frames", min_height=160)
    gr.on(
        [show.click, k.input, method.input], events.trajectory, [k, method, *fields], frames,
        **DEVICE,
    )


def _compare(events: Events, offered: list[Way], fields: list[Any]) -> None:
    names = [way.name for way in offered]
    student = next((name for name in names if name.startswith("student")), names[0])
    with gr.Row():
        first = gr.Dropdown(names, value=student, label="First")
        second = gr.Dropdown(names, value=names[0], label="Second")
    start = gr.Button("Compare", variant="primary")
    clocks = gr.HTML(elem_id="clocks", min_height=240)
    start.click(events.compare, [first, second, *fields], clocks, **DEVICE)


def launch(page: gr.Blocks, address: str, port: int) -> None:
    """Serve a page in the background."""
    page.launch(
        server_name=address, server_port=port, share=False, quiet=True, prevent_thread_lock=True,
        inbrowser=False, ssr_mode=False, footer_links=[], theme=_theme(),
        css_paths=Path(__file__).with_name("style.css"),
    )


def _theme() -> gr.Theme:
    """Of fonts that the visitor's system has, so that none is fetched; small print can be read."""
    small = {"body_text_color_subdued": "*neutral_600", "block_info_text_color": "*neutral_600",
             "body_text_color_subdued_dark": "*neutral_300",
             "block_info_text_color_dark": "*neutral_300"}
    return gr.themes.Default(
        primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["monospace"]
    ).set(**small)

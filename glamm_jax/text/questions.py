"""Question templates and answer templates.

The image preamble, the instructions of the evaluations and the answers of the segmentation tasks
are a protocol: the released checkpoints were trained on these strings, so they must not change by a
character. The lists of questions are paraphrases written for this library.
"""

from __future__ import annotations

from collections.abc import Sequence

from glamm_jax.text.special_tokens import IMAGE_END, IMAGE_PLACEHOLDER, IMAGE_START, REGION, SEG

IMAGE_TOKENS = IMAGE_START + IMAGE_PLACEHOLDER + IMAGE_END
PREAMBLE = f"The {IMAGE_TOKENS} provides an overview of the picture."

# quirk 34: the five spaces come from a line continuation inside the original's string.
GCG_INSTRUCTION = (
    "Could you please give me a detailed description of the image? Please respond with interleaved"
    "     segmentation masks for the corresponding parts of the answer."
)
REGION_INSTRUCTION = (
    "Can you provide me with a detailed description of the region in the picture marked by "
    f"{REGION}?"
)
# The paper's prompt (section 4); the original's code samples from a list.
REFERRING_INSTRUCTION = "Please segment the {name} in the image."
# Longest answer, in tokens, that the original's evaluations generate.
MAX_NEW_TOKENS = 512

SEGMENTATION_ANSWERS = (
    f"It is {SEG}.",
    f"Sure, {SEG}.",
    f"Sure, it is {SEG}.",
    f"Sure, the segmentation result is {SEG}.",
    f"{SEG}.",
)

# `format_question` fills in `{regions}` and `{name}`.
CAPTION_QUESTIONS = (
    "What does this picture show? Describe it in detail.",
    "Tell me everything you can see here.",
    "Give a thorough account of this photo.",
    "Write a detailed caption for the image.",
    "How would you describe this scene to someone who cannot see it?",
    "Walk me through the contents of the picture.",
    "Explain at length what is going on in this image.",
    "Which things are in the photo, and how are they arranged?",
)
GCG_QUESTIONS = tuple(
    f"{question} {request}"
    for question in (
        "Describe the image in detail.",
        "What can be seen in this picture?",
        "Give a full account of the photo.",
    )
    for request in (
        "Mark each thing that you mention with a segmentation mask.",
        "Interleave segmentation masks with the phrases they belong to.",
    )
)
SEGMENTATION_QUESTIONS = (
    "Segment the {name} in this image.",
    "Show me where the {name} is, as a mask.",
    "Which pixels belong to the {name}? Answer with a segmentation mask.",
    "Please outline the {name} with a segmentation mask.",
    "Find the {name} in the picture and segment it.",
    "Can you give me a mask of the {name}?",
)
REGION_QUESTIONS = (
    "What is in {regions}? Describe it in detail.",
    "Describe the part of the picture marked {regions}.",
    "Tell me about the area {regions} of the image.",
    "Please explain what {regions} contains.",
    "Give a detailed description of {regions}.",
    "What would you say about the thing inside {regions}?",
)
# `{name}` is a caption whose phrases are enclosed in <p> and </p>.
GROUNDING_QUESTIONS = (
    "Find what the marked phrases speak of: {name} Answer with a segmentation mask for each.",
    "This is said of the picture: {name} Which pixels does each marked phrase mean?",
    "Ground every marked phrase of this caption with a segmentation mask: {name}",
    "Segment, phrase by phrase, what is marked here: {name}",
)
REGION_GROUP_QUESTIONS = (
    "Describe the areas {regions} together.",
    "What do the regions {regions} show?",
    "Explain in detail what is found in {regions}.",
    "Please tell me about the marked parts {regions} of this picture.",
)


def name_regions(num_regions: int) -> str:
    """Return `region1 <bbox>` for one region, `region1 <bbox>,region2 <bbox>,` for several."""
    if num_regions == 1:
        return f"region1 {REGION}"
    return "".join(f"region{i + 1} {REGION}," for i in range(num_regions))


def format_question(
    questions: Sequence[str],
    index: int,
    name: str = "",
    num_regions: int = 0,
    first_region: int = 1,
) -> str:
    """Fill in one of several question templates.

    Args:
        questions: the templates.
        index: which template, modulo their number.
        name: replaces `{name}`: a class, an expression or a caption.
        num_regions: number of regions named by `{regions}`.
        first_region: number of the region if there is a single one, for conversations that ask
            about the regions one by one.
    """
    regions = name_regions(num_regions) if num_regions != 1 else f"region{first_region} {REGION}"
    return questions[index % len(questions)].format(name=name, regions=regions)


def with_preamble(question: str, bare_image: bool = False) -> str:
    """Return the first user turn: the image, a line break, the question.

    Args:
        question: the question.
        bare_image: put the image there without a sentence about it, as in visual instructions.
    """
    return f"{IMAGE_TOKENS if bare_image else PREAMBLE}\n{question}"

"""What the model is asked and how it answers: protocol strings, and our own lists of paraphrases.

Protocol (a released checkpoint has seen it letter by letter): the image preamble, the two
instructions of the evaluations, and the answers of the segmentation tasks. The lists of questions
are ours; a checkpoint trained on them hears the same things asked in several ways.
"""

from __future__ import annotations

from collections.abc import Sequence

from glamm_jax.text.special_tokens import IMAGE_END, IMAGE_PLACEHOLDER, IMAGE_START, REGION, SEG

IMAGE_TOKENS = IMAGE_START + IMAGE_PLACEHOLDER + IMAGE_END
PREAMBLE = f"The {IMAGE_TOKENS} provides an overview of the picture."

# The run of five spaces comes from a line continuation inside the original's string (trap 34).
GCG_INSTRUCTION = (
    "Could you please give me a detailed description of the image? Please respond with interleaved"
    "     segmentation masks for the corresponding parts of the answer."
)
REGION_INSTRUCTION = (
    "Can you provide me with a detailed description of the region in the picture marked by "
    f"{REGION}?"
)
# The paper's prompt (section 4); the original's code draws from a list.
REFERRING_INSTRUCTION = "Please segment the {name} in the image."
# Longest answer that the original's evaluations generate.
MAX_NEW_TOKENS = 512

SEGMENTATION_ANSWERS = (
    f"It is {SEG}.",
    f"Sure, {SEG}.",
    f"Sure, it is {SEG}.",
    f"Sure, the segmentation result is {SEG}.",
    f"{SEG}.",
)

# `{regions}` and `{name}` are filled in by the functions below.
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
# `{name}` is a caption whose phrases stand in their marks.
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
    """Names of regions: `region1 <bbox>` alone, `region1 <bbox>,region2 <bbox>,` for several."""
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
    """The `draw`-th paraphrase (modulo their number) about a named thing or about regions.

    `first_region` numbers a single region, for questions that take the regions one by one.
    """
    regions = name_regions(num_regions) if num_regions != 1 else f"region{first_region} {REGION}"
    return questions[index % len(questions)].format(name=name, regions=regions)


def with_preamble(question: str, bare_image: bool = False) -> str:
    """The first user turn: the image, a line break, the question.

    bare: the image alone, without a sentence about it, as visual instructions are asked.
    """
    return f"{IMAGE_TOKENS if bare_image else PREAMBLE}\n{question}"

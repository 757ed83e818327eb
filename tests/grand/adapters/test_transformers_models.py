"""What adapters of transformers compute, compared with transformers' own functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import transformers as hf  # noqa: E402
from PIL import Image  # noqa: E402

from glamm_jax.data import rle  # noqa: E402
from glamm_jax.grand.adapters.registry import adapter_class  # noqa: E402
from glamm_jax.grand.adapters.torch_models.florence import (  # noqa: E402
    location_text,
    parse_regions,
    plain_text,
)
from glamm_jax.grand.adapters.torch_models.generation import (  # noqa: E402
    GeneratedTokens,
    SeededSampling,
    TokenSampling,
    generate,
)
from glamm_jax.grand.adapters.torch_models.open_detection import (  # noqa: E402
    dino_text,
    dino_texts,
    span_scores,
)
from glamm_jax.grand.adapters.torch_models.text_llm import (  # noqa: E402
    vicuna_text,
    without_system,
)
from glamm_jax.grand.roles import (  # noqa: E402
    LANDMARKS,
    ChatMessage,
    LabelQuestion,
    LLMAnswer,
    LLMRequest,
    RoleError,
    RoleImage,
)

pytestmark = pytest.mark.usefixtures("one_thread")
Folder = Callable[[str], Path]


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def make(role: str, folder: Path, **options: Any) -> Any:
    """Return an adapter that is ready."""
    adapter = adapter_class("transformers", role)(
        name="model", model=str(folder), device="cpu", **options
    )
    adapter.setup()
    return adapter


def photograph(height: int = 40, width: int = 60, seed: int = 0) -> RoleImage:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return RoleImage("a.png", pixels, seed=3)


IMAGE = photograph()
PICTURE = Image.fromarray(IMAGE.pixels)


def processor_of(folder: Path, kind: Any = hf.AutoProcessor) -> Any:
    return kind.from_pretrained(folder, backend="pil")


def boxes_of(detections: Any) -> np.ndarray:
    return np.array([item.box for item in detections])


# ------------------------------------------------------------------ boxes


@pytest.mark.parametrize("name", ["rt_detr", "d_fine"])
def test_a_detector_has_the_boxes_of_transformers_without_unused_classes(
    name: str, tiny_model: Folder
) -> None:
    folder = tiny_model(name)
    (detections,) = make("detector", folder, threshold=0.0)([IMAGE])
    processor = processor_of(folder, hf.AutoImageProcessor)
    network = hf.AutoModelForObjectDetection.from_pretrained(folder).eval()
    outputs = network(**processor(images=PICTURE, return_tensors="pt"))
    (row,) = processor.post_process_object_detection(
        outputs, threshold=0.0, target_sizes=[(40, 60)]
    )
    names = [network.config.id2label[k] for k in row["labels"].tolist()]
    expected = [
        (name, score)
        for name, score in sorted(
            zip(names, row["scores"].tolist(), strict=True), key=lambda x: -x[1]
        )
        if name != "N/A"
    ]
    assert ("N/A" in names) == (name == "rt_detr")
    assert [item.label for item in detections] == [name for name, _ in expected]
    assert [item.score for item in detections] == pytest.approx([score for _, score in expected])


def test_classes_without_names_must_be_named(tiny_model: Folder, tmp_path: Path) -> None:
    folder = tiny_model("rt_detr")
    network = hf.RTDetrForObjectDetection.from_pretrained(folder)
    network.config.id2label = {k: f"LABEL_{k}" for k in range(4)}
    network.save_pretrained(tmp_path)
    processor_of(folder, hf.AutoImageProcessor).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="does not name the 4 classes; list their names as labels"):
        make("detector", tmp_path)
    with pytest.raises(ValueError, match="has 4 classes, and labels names 2"):
        make("detector", tmp_path, labels=["a", "b"])
    (detections,) = make("detector", tmp_path, labels=["a", "b", "c", "d"], threshold=0.0)([IMAGE])
    assert {item.label for item in detections} <= {"a", "b", "c", "d"}


def test_owl_has_the_boxes_of_transformers(tiny_model: Folder) -> None:
    folder = tiny_model("owlv2")
    classes = ["dog", "traffic light", "cat"]
    adapter = make("open_detector", folder, threshold=0.4)
    (detections,) = adapter([IMAGE], [[*classes, "dog", " "]])
    processor = processor_of(folder)
    network = hf.Owlv2ForObjectDetection.from_pretrained(folder).eval()
    inputs = processor(
        images=PICTURE,
        text=[[f"a photo of a {name}" for name in classes]],
        return_tensors="pt",
        padding="max_length",
        max_length=64,
    )
    (row,) = processor.post_process_grounded_object_detection(
        network(**inputs), threshold=0.4, target_sizes=[(40, 60)], text_labels=[classes]
    )
    inside = [
        (score, label, box)
        for score, label, box in zip(
            row["scores"].tolist(), row["text_labels"], row["boxes"].tolist(), strict=True
        )
        if box[1] < 40
    ]
    inside.sort(key=lambda item: -item[0])
    assert len(inside) > 3
    assert [item.label for item in detections] == [label for _, label, _ in inside]
    expected = np.clip([box for *_, box in inside], 0, [60, 40, 60, 40])
    np.testing.assert_allclose(boxes_of(detections), expected, atol=1e-4)


def test_owl_searches_long_lists_in_parts(tiny_model: Folder) -> None:
    classes = ["dog", "cat", "tree", "car", "house"]
    folder = tiny_model("owlv2")
    best: dict[Any, float] = {}
    for name in classes:
        for item in make("open_detector", folder, threshold=0.0)([IMAGE], [[name]])[0]:
            best[item.box] = max(item.score, best.get(item.box, 0.0))
    parts = make("open_detector", folder, threshold=0.0, max_classes=2)([IMAGE], [classes])[0]
    found: dict[Any, float] = {}
    for item in parts:
        found[item.box] = max(item.score, found.get(item.box, 0.0))
    assert sorted(found.values()) == pytest.approx(sorted(best.values()), abs=1e-5)


def test_grounding_dino_has_the_boxes_of_transformers(tiny_model: Folder) -> None:
    folder = tiny_model("grounding_dino")
    adapter = make("open_detector", folder, threshold=0.0)
    (detections,) = adapter([IMAGE], [["X", "Y"]])  # one token each
    processor = processor_of(folder)
    network = hf.GroundingDinoForObjectDetection.from_pretrained(folder).eval()
    inputs = processor(images=PICTURE, text=[["X", "Y"]], return_tensors="pt")
    assert inputs["input_ids"][0].tolist()[::2] == [101, 1012, 102][:1] + [1012, 1012][:2]
    outputs = network(**inputs)
    probabilities = outputs.logits[0].sigmoid()[:, [1, 3]]
    scores, labels = probabilities.max(-1)
    assert [item.score for item in detections] == pytest.approx(
        sorted(scores.tolist(), reverse=True), abs=1e-6
    )
    order = scores.argsort(descending=True)
    assert [item.label for item in detections] == [["X", "Y"][k] for k in labels[order].tolist()]


def test_texts_of_grounding_dino_are_divided_below_its_limit(tiny_model: Folder) -> None:
    tokenizer = processor_of(tiny_model("grounding_dino")).tokenizer
    config = hf.AutoConfig.from_pretrained(tiny_model("grounding_dino"))
    phrases = ["Traffic Light", "a.b. c", *("abcdefgh" * k for k in range(1, 9)), "z " * 150]
    texts = dino_texts(phrases, tokenizer, config)
    assert len(texts) > 2
    assert [first for first, _ in texts] == np.cumsum(
        [0, *(len(text.spans) for _, text in texts[:-1])]
    ).tolist()
    assert sum(len(text.spans) for _, text in texts) == len(phrases)
    for first, text in texts:
        ids = text.arrays["input_ids"][0]
        assert len(ids) <= config.max_text_len
        for phrase, span in zip(phrases[first:], text.spans, strict=False):
            words = " ".join(phrase.lower().replace(".", " ").split())
            decoded = tokenizer.decode(ids[list(span)]).replace(" ", "")
            assert words.replace(" ", "").startswith(decoded)
            assert decoded
            assert "." not in decoded
    (_, text), *_ = dino_texts(["a b", "c"], tokenizer, config)
    scores = torch.arange(8.0)[None]  # [CLS] a b . c . [SEP]
    assert span_scores(scores, text).tolist() == [[1.5, 4.0]]
    assert dino_texts([], tokenizer, config) == []


def test_a_phrase_beyond_the_limit_has_no_tokens(tiny_model: Folder) -> None:
    tokenizer = processor_of(tiny_model("grounding_dino")).tokenizer
    text = dino_text("ab " * 7 + "ef", [(0, 2), (21, 23)], tokenizer, 16)
    assert text.spans == ((1, 2), ())
    assert span_scores(torch.ones(3, 16), text)[:, 1].tolist() == [0.0] * 3


# ------------------------------------------------------------------ similarity


def test_labels_have_the_probabilities_of_clip(tiny_model: Folder) -> None:
    folder = tiny_model("clip")
    labels = ("dog", "traffic light", "cat")
    question = LabelQuestion((10.0, 5.0, 50.0, 35.0), labels)
    ((tag,),) = make("label_chooser", folder)([IMAGE], [[question]])
    inputs = processor_of(folder)(
        images=PICTURE.crop((10, 5, 50, 35)), text=list(labels), padding=True, return_tensors="pt"
    )
    network = hf.CLIPModel.from_pretrained(folder).eval()
    scores = network(**inputs).logits_per_image[0].softmax(0)
    assert tag.text == labels[int(scores.argmax())]
    assert tag.score == pytest.approx(float(scores.max()), abs=1e-6)


def test_tags_have_the_probabilities_of_siglip(tiny_model: Folder, tmp_path: Path) -> None:
    folder = tiny_model("siglip2")
    words = ["dog", "traffic light", "cat", "tree"]
    (tmp_path / "words.txt").write_text("dog\ntraffic light\n\ncat \ndog\ntree\n")
    options = {"vocabulary": str(tmp_path / "words.txt"), "prompt": "{}"}
    adapter = make("tagger", folder, threshold=0.0, **options)
    inputs = processor_of(folder)(
        images=PICTURE, text=words, return_tensors="pt", max_num_patches=16, patch_size=8
    )
    inputs.pop("attention_mask", None)
    network = hf.Siglip2Model.from_pretrained(folder).eval()
    scores = network(**inputs).logits_per_image[0].sigmoid().tolist()
    expected = dict(zip(words, scores, strict=True))
    (tags,) = adapter([IMAGE])
    assert {tag.text: tag.score for tag in tags} == pytest.approx(expected, abs=1e-6)
    assert [tag.score for tag in tags] == sorted(scores, reverse=True)
    middle = sorted(scores)[1]
    (some,) = make("tagger", folder, threshold=middle + 1e-4, **options)([IMAGE])
    assert len(some) == 2
    (one,) = make("tagger", folder, threshold=0.0, max_tags=1, **options)([IMAGE])
    assert one == tags[:1]


# ------------------------------------------------------------------ depth and masks


def test_depth_is_that_of_transformers_and_metres_are_inverted(
    tiny_model: Folder, tmp_path: Path
) -> None:
    folder = tiny_model("depth_anything")
    (depth,) = make("depth_estimator", folder)([IMAGE])
    processor = processor_of(folder, hf.AutoImageProcessor)
    network = hf.DepthAnythingForDepthEstimation.from_pretrained(folder).eval()
    outputs = network(**processor(images=PICTURE, return_tensors="pt"))
    (row,) = processor.post_process_depth_estimation(outputs, target_sizes=[(40, 60)])
    np.testing.assert_allclose(depth, row["predicted_depth"].numpy(), atol=1e-6)
    network.config.depth_estimation_type = "metric"
    network.config.max_depth = 20
    network.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    (inverse,) = make("depth_estimator", tmp_path)([IMAGE])
    (metres,) = make("depth_estimator", tmp_path, metric=False)([IMAGE])
    assert np.corrcoef(inverse.ravel(), metres.ravel())[0, 1] < -0.5
    assert metres.mean() > 1


@pytest.mark.parametrize("name", ["sam", "sam_hq"])
def test_masks_of_boxes_are_those_of_transformers(name: str, tiny_model: Folder) -> None:
    folder = tiny_model(name)
    boxes = [(3.0, 4.0, 30.5, 28.0), (10.0, 0.0, 33.0, 40.0), (0.0, 0.0, 60.0, 40.0)]
    (masks,) = make("segmenter", folder, prompts_per_call=2)([IMAGE], [boxes])
    processor = processor_of(folder)
    network = hf.AutoModelForMaskGeneration.from_pretrained(folder).eval()
    inputs = processor(
        images=PICTURE, input_boxes=[[list(box) for box in boxes]], return_tensors="pt"
    )
    sizes = inputs.pop("original_sizes"), inputs.pop("reshaped_input_sizes")
    inputs["input_boxes"] = inputs["input_boxes"].float()
    outputs = network(**inputs, multimask_output=False)
    (expected,) = processor.post_process_masks(outputs.pred_masks, *sizes)
    for mask, other in zip(masks, expected[:, 0].numpy(), strict=True):
        assert other.any()
        assert (rle.decode(mask) != other).mean() < 1e-3


def test_masks_of_everything_are_good_stable_and_apart(tiny_model: Folder) -> None:
    options = {"points_per_side": 4, "min_stability": 0.6, "stability_offset": 0.02}
    adapter = make("region_proposer", tiny_model("sam"), min_iou=0.1, nms_iou=0.7, **options)
    (regions,) = adapter([IMAGE])
    assert regions
    scores = [item.score for item in regions]
    assert scores == sorted(scores, reverse=True)
    assert min(scores) >= 0.1
    for item in regions:
        ys, xs = np.nonzero(rle.decode(item.mask))
        assert item.box == (xs.min(), ys.min(), xs.max() + 1.0, ys.max() + 1.0)
    (all_regions,) = make(
        "region_proposer", tiny_model("sam"), min_iou=0.1, nms_iou=1.0, **options
    )([IMAGE])
    assert len(all_regions) > len(regions)
    logits = torch.tensor([[-5.0, -0.5, 0.5, 5.0, 5.0]])
    strict = make("region_proposer", tiny_model("sam"))
    assert strict._stability(logits) == 0.5  # two above 1, four above -1
    assert strict._stability(torch.full((2, 2), -9.0)) == 0.0


# ------------------------------------------------------------------ texts


def test_blip2_without_a_question_continues_the_image(tiny_model: Folder) -> None:
    folder = tiny_model("blip2")
    (caption,) = make("captioner", folder, max_new_tokens=6)([IMAGE])
    processor = processor_of(folder)
    network = hf.Blip2ForConditionalGeneration.from_pretrained(folder).eval()
    pixels = processor(images=PICTURE, return_tensors="pt")["pixel_values"]
    rows = network.generate(pixel_values=pixels, max_new_tokens=6, do_sample=False)
    assert caption == processor.tokenizer.decode(rows[0], skip_special_tokens=True).strip() != ""


def test_florence_gets_its_tasks(tiny_model: Folder) -> None:
    folder = tiny_model("florence")
    adapter = make("dense_captioner", folder)
    assert adapter.inputs(PICTURE, "<DENSE_REGION_CAPTION>")["input_ids"].shape[1] > 20
    network = hf.Florence2ForConditionalGeneration.from_pretrained(folder).eval()
    inputs = processor_of(folder)(images=PICTURE, text="<CAPTION>", return_tensors="pt")
    rows = network.generate(**inputs, max_new_tokens=9, do_sample=False, num_beams=1)
    writer = make("captioner", folder, max_new_tokens=9)
    answers = writer.write([writer.inputs(PICTURE, "<CAPTION>")], [0], writer.sampling, 1)
    assert answers[0] == processor_of(folder).tokenizer.decode(rows[0, 1:]).removesuffix("</s>")


def test_texts_of_florence() -> None:
    size = (50, 100)
    assert location_text((0.0, 5.0, 99.95, 60.0), size) == "<loc_0><loc_100><loc_999><loc_999>"
    answer = (
        "</s><s>a red car<loc_100><loc_200><loc_300><loc_400><loc_0><loc_0><loc_9><loc_999>"
        "a dog<loc_5><loc_5><loc_5><loc_900>a cut<loc_1><loc_2><loc_3></s><pad>"
    )
    assert [(text, box) for text, box in parse_regions(answer, size)] == [
        ("a red car", pytest.approx((10.05, 10.025, 30.05, 20.025))),
        ("a red car", pytest.approx((0.05, 0.025, 0.95, 49.975))),
    ]
    assert parse_regions("nothing", size) == []
    assert plain_text("</s><s>a  red<loc_3> car</s><pad>") == "a red car"


def test_the_place_is_the_most_probable_option(tiny_model: Folder) -> None:
    folder = tiny_model("llava")
    adapter = make("landmark_classifier", folder, batch_size=1)
    network = hf.LlavaForConditionalGeneration.from_pretrained(folder).eval()
    processor = processor_of(folder)

    def probabilities(question: str, options: Any) -> list[float]:
        prompt = f"user: <image>What kind of place does this image show? Choose one of: {question}."
        scores = []
        for option in options:
            inputs = processor(
                images=PICTURE, text=f"{prompt}\nassistant: {option}", return_tensors="pt"
            )
            inputs["labels"] = inputs["input_ids"].clone()
            inputs["labels"][:, : -len(option)] = -100  # tokens are bytes
            scores.append(-network(**inputs).loss.item())
        return scores

    main = list(LANDMARKS)
    scores = probabilities(", ".join(main), main)
    category = main[int(np.argmax(scores))]
    fine = LANDMARKS[category]
    scores = probabilities(", ".join(fine), fine)
    (place,) = adapter([IMAGE])
    assert (place.category, place.fine_category) == (category, fine[int(np.argmax(scores))])


def test_the_place_by_a_model_with_encoder_and_decoder(tmp_path: Path) -> None:
    from tests.grand.adapters.tiny_models import save_blip2

    save_blip2(tmp_path, t5=True)
    adapter = make("landmark_classifier", tmp_path, prompt="{}")
    network = hf.Blip2ForConditionalGeneration.from_pretrained(tmp_path).eval()
    processor = processor_of(tmp_path)
    scores = []
    for option in LANDMARKS:
        text = f"Question: {', '.join(LANDMARKS)} Answer:"
        inputs = processor(images=PICTURE, text=text, return_tensors="pt")
        tokens = processor.tokenizer(option, add_special_tokens=False, return_tensors="pt")
        scores.append(-network(**inputs, labels=tokens["input_ids"]).loss.item())
    (place,) = adapter([IMAGE])
    assert place.category == list(LANDMARKS)[int(np.argmax(scores))]
    (caption,) = make("captioner", tmp_path, max_new_tokens=6)([IMAGE])
    rows = network.generate(
        **processor(images=PICTURE, text="", return_tensors="pt"), max_new_tokens=6
    )
    expected = processor.tokenizer.decode(rows[0], skip_special_tokens=True).strip()
    assert caption == (expected or RoleError("output", "the answer is empty"))


def test_sampling_draws_from_the_probabilities_of_each_item() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]])
    count = 4000
    sampling = SeededSampling(TokenSampling(1, 0.5, 1.0), range(count), torch.device("cpu"))
    noisy = sampling(torch.zeros(count, 1), logits.repeat(count, 1))
    shares = np.bincount(noisy.argmax(-1), minlength=4) / count
    np.testing.assert_allclose(shares, (logits[0] / 0.5).softmax(0), atol=0.02)
    some = SeededSampling(TokenSampling(1, 0.5, 1.0), [5, 9], torch.device("cpu"))
    torch.testing.assert_close(some(torch.zeros(2, 1), logits.repeat(2, 1)), noisy[[5, 9]])
    cut = SeededSampling(TokenSampling(1, 1.0, 0.8), range(count), torch.device("cpu"))
    chosen = Counter(cut(torch.zeros(count, 1), logits.repeat(count, 1)).argmax(-1).tolist())
    assert set(chosen) == {1, 2}  # 0.64 and 0.24 of all
    first = SeededSampling(TokenSampling(1, 1.0, 0.0), range(50), torch.device("cpu"))
    assert set(first(torch.zeros(50, 1), logits.repeat(50, 1)).argmax(-1).tolist()) == {2}


def request(*texts: str, seed: int = 0) -> LLMRequest:
    messages = [ChatMessage(*text.split(": ", 1)) for text in texts]
    return LLMRequest("a", tuple(messages), seed)


def test_a_language_model_answers_as_transformers_generates(tiny_model: Folder) -> None:
    folder = tiny_model("llama")
    item = request("system: Be brief.", "user: What is a dog?")
    (answer,) = make("llm", folder, temperature=0.0, max_new_tokens=10)([item])
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    text = "system: Be brief.\nuser: What is a dog?\nassistant: "
    inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt")
    network = hf.LlamaForCausalLM.from_pretrained(folder).eval()
    rows = network.generate(**inputs, max_new_tokens=10, do_sample=False)
    expected = tokenizer.decode(rows[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert answer == LLMAnswer(expected.strip(), "length")


def test_seeds_change_sampled_answers_and_nothing_else_does(tiny_model: Folder) -> None:
    adapter = make("llm", tiny_model("llama"), max_new_tokens=8)
    requests = [request("user: a dog", seed=seed) for seed in (1, 2, 1, 3)]
    answers = adapter(requests)
    assert answers[0] == answers[2]
    assert len({answer.text for answer in answers}) == 3


def test_an_answer_that_ends_is_complete(tiny_model: Folder) -> None:
    adapter = make("llm", tiny_model("llama"), temperature=0.0, max_new_tokens=20)
    item = request("user: a dog")
    inputs = {"input_ids": torch.tensor([adapter._tokens(item.messages)])}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    (cut,) = generate(adapter._network, inputs, TokenSampling(20, 0.0, 1.0), [0], 0)
    assert len(cut.tokens) == 20
    assert not cut.is_complete
    end = next(token for token in cut.tokens if token != cut.tokens[0])
    adapter._network.generation_config.eos_token_id = [end, 0]
    (complete,) = generate(adapter._network, inputs, TokenSampling(20, 0.0, 1.0), [0], 0)
    assert complete == GeneratedTokens(cut.tokens[: cut.tokens.index(end)], True)
    (answer,) = adapter([item])
    assert answer.finish_reason == "stop"


def test_a_request_that_exceeds_the_context_is_an_error(tmp_path: Path) -> None:
    from tests.grand.adapters.tiny_models import save_llama

    save_llama(tmp_path, template=False, limit=64)
    adapter = make("llm", tmp_path, max_new_tokens=20)
    short, long = adapter([request("user: a"), request("user: " + "word " * 9)])
    assert isinstance(short, LLMAnswer)
    assert isinstance(long, RoleError) and long.kind == "input"
    assert "an answer of 20 exceed the model's limit of 64; lower max_new_tokens" in long.message


def test_conversations_of_models_without_a_template_or_a_system() -> None:
    messages = [
        ChatMessage("system", "Be brief."),
        ChatMessage("user", "a"),
        ChatMessage("assistant", "b"),
        ChatMessage("user", "c"),
    ]
    text = "Be brief. USER: a ASSISTANT: b</s>USER: c ASSISTANT:"
    assert vicuna_text(messages, "</s>") == text
    assert without_system(messages) == [ChatMessage("user", "Be brief.\n\na"), *messages[2:]]


def test_a_template_that_refuses_a_system_gets_it_in_the_question(
    tiny_model: Folder, tmp_path: Path
) -> None:
    from tests.grand.adapters.tiny_models import CHAT

    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    network = hf.LlamaForCausalLM.from_pretrained(tiny_model("llama"))
    tokenizer = hf.AutoTokenizer.from_pretrained(tiny_model("llama"))
    network.save_pretrained(tmp_path)
    tokenizer.chat_template = refusing + CHAT
    tokenizer.save_pretrained(tmp_path)
    adapter = make("llm", tmp_path, max_new_tokens=4)
    tokens = adapter._tokens(request("system: Be brief.", "user: a").messages)
    assert tokenizer.decode(tokens) == "user: Be brief.\n\na\nassistant: "
    tokenizer.chat_template = "{{ raise_exception('never') }}"
    tokenizer.save_pretrained(tmp_path)
    adapter = make("llm", tmp_path, max_new_tokens=4)
    (error,) = adapter([request("user: a")])
    assert error == RoleError("input", "the chat template refuses: never")

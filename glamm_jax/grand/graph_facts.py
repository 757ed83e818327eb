"""What the language steps know about the scene graph of an image: its text, and its facts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ObjectFacts:
    """What the scene graph says about one object.

    Attributes:
        object_id: its id in the record.
        labels: the chosen one first.
        attributes: descriptions of the object, the most reliable one first.
        phrases: phrases of the short captions that are linked to it.
    """

    object_id: int
    labels: tuple[str, ...]
    attributes: tuple[str, ...] = ()
    phrases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GraphText:
    """The scene graph of one image, as a language model reads it and as it is compared with.

    Attributes:
        image_id: of the image; also the seed of requests.
        text: what the request ends with.
        entries: the objects in the text, in its order.
        landmark: category and fine category; () if the place was not classified.
        stuff: names of what is in the image without being an object: sky, grass, tags.
    """

    image_id: str
    text: str
    entries: tuple[ObjectFacts, ...]
    landmark: tuple[str, ...] = ()
    stuff: tuple[str, ...] = ()

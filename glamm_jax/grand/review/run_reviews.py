"""The reviews of a run, as every reader of its records applies them.

reviews = open_reviews(run)                     # None: nobody has decided anything
record = reviews.apply(image_id, section, image)
record.review                                   # state, authors, time; None: not reviewed
"""

from __future__ import annotations

from dataclasses import dataclass

from glamm_jax.errors import GLaMMError
from glamm_jax.grand.levels.sections import read_record
from glamm_jax.grand.record import GrandRecord, changed
from glamm_jax.grand.review.decisions import DecisionError, DecisionLog, record_digest
from glamm_jax.grand.review.reviewed_record import corrected_record
from glamm_jax.grand.run_folder import AnnotationRun
from glamm_jax.grand.stages import Section, one_line
from glamm_jax.json_files import show


@dataclass(frozen=True)
class RunReviews:
    """Applies the decisions about a run to its records."""

    log: DecisionLog

    def apply(self, image_id: str, section: Section, image: Section) -> GrandRecord:
        """Return the reviewed record of an image.

        Args:
            image_id: of the image.
            section: of the stage `annotations`.
            image: section of the stage `image`.

        Raises:
            DecisionError: a correction does not fit the record.
        """
        record = read_record(section)
        if not self.log.decisions(image_id):
            return record
        digest = record_digest(section, image)
        review = self.log.review(image_id, digest)
        if review is None:
            return record
        correction = self.log.correction(image_id, digest)
        if correction is not None:
            try:
                size = (image.get("height", 0), image.get("width", 0))
                record = corrected_record(record, correction, size)
            except GLaMMError as error:
                raise DecisionError(
                    f"{self.log.path}: the correction of image {show(image_id)}: {one_line(error)}"
                ) from error
        return changed(record, review=review)


def open_reviews(run: AnnotationRun) -> RunReviews | None:
    """Return the reviews of a run; None if there are no decisions.

    Raises:
        DecisionError: the file of decisions cannot be read, has a line that is no decision, or is
            about an image that the run does not have.
    """
    log = DecisionLog(run.path)
    if not len(log):
        return None
    unknown = set(log.image_ids)
    for chunk in range(run.num_chunks):
        unknown.difference_update(entry.image_id for entry in run.images(chunk))
        if not unknown:
            return RunReviews(log)
    first = min(unknown, key=lambda name: log.decisions(name)[0].sequence)
    raise DecisionError(
        f"{log.path}: line {log.decisions(first)[0].sequence}: the run has no image {show(first)}"
    )

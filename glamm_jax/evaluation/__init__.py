"""A model is asked a benchmark's questions, and what it says is scored.

item: a question and its truth. prediction: what was said. Above them: where items come from, how
they are asked, which metrics judge them, and pages to look at.
"""

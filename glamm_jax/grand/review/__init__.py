"""Review of annotations by persons: decisions, what becomes of a record, the queue, the web page.

correction.py         the edited part of a record, as data
decisions.py          RUN/review/decisions.jsonl, to which decisions are appended
reviewed_record.py    record and correction -> reviewed record
run_reviews.py        what every reader of a run applies
confidence.py         how certain the annotations of an image are, by its record
queue.py              the order of the images, the lowest confidence first
page_data.py          what the page shows of an image, and what it sends back
server.py             the web server
page/                 its files
"""

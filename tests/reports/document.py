"""A strict reading of a page: tags in order, text, and a failure where a tag is not closed."""

from html.parser import HTMLParser

VOID = {"meta", "link", "img", "source", "br"}


class Document(HTMLParser):
    """tags: (name, attributes) in order; text: all text outside of style and script."""

    def __init__(self):
        super().__init__()
        self.tags, self.open, self.text = [], [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.text += data


def parse(html):
    """The document; every element must be closed in order."""
    document = Document()
    document.feed(str(html))
    document.close()
    assert not document.open, document.open
    return document

"""Tables in Markdown."""

from blitz.callback.texts import markdown


def test_table():
    rows = [("class", "count", "accuracy"), ("cat", 3, 1 / 3), ("<b>|*", 0, "n/a")]
    assert markdown(rows) == (
        "| class | count | accuracy |\n| --- | --- | --- |\n| cat | 3 | 0.3333 |\n| &#60;b&#62;&#124;&#42; | 0 | n/a |"
    )

"""The words that a LoRA was trained with: what a prompt says to have its effect."""

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

MOST, LONGEST = 5, 100  # words, and characters of one


def trigger_words(metadata: Mapping[str, Any]) -> list[str]:
    """What a file's metadata says of them: ``modelspec.trigger_phrase``, or of the tags that kohya's trainer counted
    (``ss_tag_frequency``) those that at least half as many captions had as the commonest. Nothing where it says none."""
    phrase = str(metadata.get("modelspec.trigger_phrase") or "").strip()
    if phrase:
        return [phrase[:LONGEST]]
    try:
        folders = json.loads(str(metadata.get("ss_tag_frequency") or "{}"))
        counts = Counter[str]()
        for tags in folders.values():
            counts.update({tag.strip()[:LONGEST]: int(count) for tag, count in tags.items()})
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        return []  # a stranger's text
    common = [(tag, count) for tag, count in counts.most_common(MOST) if tag]
    return [tag for tag, count in common if 2 * count >= common[0][1]]

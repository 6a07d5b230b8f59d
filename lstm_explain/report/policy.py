"""What a page may do: show itself. Its own style and script are named by their hashes, and nothing else is let in."""

import base64
import hashlib


def policy(css: str, script: str) -> str:
    """The content security policy of a page with this style and this script."""
    return f"default-src 'none'; style-src '{_hash(css)}'; script-src '{_hash(script)}'; img-src data:; base-uri 'none'; form-action 'none'"


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"

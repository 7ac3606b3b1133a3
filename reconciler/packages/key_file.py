"""Where the secret key is found that signs store paths, without what reading one costs to import."""

from __future__ import annotations

# Names the file of the key, where the command line does not.
KEY_FILE = "RECONCILER_CACHE_KEY_FILE"

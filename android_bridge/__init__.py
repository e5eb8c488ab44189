"""The bridge to Android. This package is empty today: nothing in it bundles or verifies anything yet.

Knows: nothing so far. It will hold the bundling of a model package with its policy for an Android app, the
Java/Kotlin library beside it, and the verification of such a bundle. Does not know: Python engines.
"""

__all__: list[str] = []

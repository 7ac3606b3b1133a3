"""Values to text: pure functions, so that a test can say every word and its place."""

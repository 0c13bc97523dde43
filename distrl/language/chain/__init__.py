"""Components that a language-model loss is composed of."""

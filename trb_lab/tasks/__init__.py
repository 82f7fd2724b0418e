"""Problems, how they are written as prompts, and how responses are graded. Free of torch at import."""

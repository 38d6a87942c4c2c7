"""The usage report in forms that leave the terminal: a page, Markdown, metrics."""

"""Parts of every HTML report: the page around it, its style, and SVG."""

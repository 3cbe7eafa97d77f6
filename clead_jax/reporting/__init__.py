"""The report: from the files of a work directory to one page, in Markdown and in HTML, with pictures. Imports no jax.

The way of one report: `inputs.read` (files -> plain values) -> `content.compose` (values -> blocks: text, tables,
pictures) -> `render` (blocks -> report.md, index.html, the terminal). A new section is one function in
`content.SECTIONS`.
"""

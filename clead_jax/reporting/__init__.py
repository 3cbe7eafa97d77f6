"""The report: from the files of a work directory to one page, in Markdown and in HTML, with pictures. Imports no jax.

`page` joins `results.read` (files -> plain values), `sections` (values -> blocks: text, tables, pictures) and `render`
(blocks -> report.md, index.html, the terminal). A new section is one function in `sections.compose`. Several runs:
`compare_runs` (which numbers share a table), then `compare_page`.
"""

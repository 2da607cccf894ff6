"""A world told on pages, and a model to which a page that has been turned is one activation.

`writing` makes the stories, `model` is the architecture, `keeper` trains or loads it, `proof` shows that the last
activation of a page is all that later tokens know of it.
"""

"""The offline model: a small world of stories whose facts are known, and a small LM trained on it.

`stories` makes the world, `reword` says it in other words and tells what is true, `subject` trains or loads the LM,
`probe` finds where it holds a fact, `show` prints all of it. `python -m consistency_lens.demo` is the tour.
"""

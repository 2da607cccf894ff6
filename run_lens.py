"""Consistency Lens: read an LLM's mind in words.

The offline demo from nothing to a report, on a laptop: a model, its activations, a lens, and what the lens is worth:

    accelerate launch run_lens.py

What the lens of a run says about a text, token by token; for machines with --json:

    python run_lens.py explain --lens outputs/RUN "a child called clara woke up early"

Another model, step by step. A recipe sets defaults, the command line overrides them:

    accelerate launch run_lens.py extract --model_name_or_path gpt2 --dataset_name roneneldan/TinyStories \
        --sites resid_post.2/3 --max_documents 20000 --output_dir outputs/gpt2-stories
    accelerate launch run_lens.py train --config gpt2 --activations outputs/gpt2-stories --output_dir outputs/gpt2-lens
    python run_lens.py evaluate --lens outputs/gpt2-lens

What a model's lens needs and how long it takes, from its configuration alone:

    python run_lens.py plan --config llama3_8b_lora --gpu_memory 80

All of it in one go, on two GPUs; then again from the newest checkpoint, had it been interrupted:

    accelerate launch --config_file ds_configs/ddp.yaml run_lens.py --config qwen3_0.6b --output_dir outputs/qwen
    accelerate launch --config_file ds_configs/ddp.yaml run_lens.py --config outputs/qwen/recipe.yaml \
        --resume_from_checkpoint true

What a run has made, its card and report too, for everybody; with a page to look at it:

    python run_lens.py publish --lens outputs/gpt2-lens --repo_id me/gpt2-lens --space

`run_lens.py --help` lists the options; each may also stand in a YAML file given as --config.
"""

import sys

from consistency_lens.cli import main

if __name__ == "__main__":
    sys.exit(main())

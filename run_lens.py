"""Consistency Lens: read an LLM's mind in words.

The offline demo, from nothing, on a laptop:

    accelerate launch run_lens.py

Activations of any model on any corpus:

    accelerate launch run_lens.py extract --model_name_or_path gpt2 --dataset_name roneneldan/TinyStories \
        --sites resid_post.2/3 --max_documents 20000 --output_dir outputs/gpt2-stories

From your own file, through a recipe of ours, two processes:

    accelerate launch --config_file ds_configs/ddp.yaml run_lens.py extract --config gpt2 --train_file notes.jsonl

`run_lens.py --help` lists every option; each may also stand in a YAML file given as --config.
"""

import sys

from consistency_lens.cli import main

if __name__ == "__main__":
    sys.exit(main())

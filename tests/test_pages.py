"""Tests of pages: they load nothing and hold what a reader looks for. The README's numbers: test_findings."""

import base64
import json
import re
from urllib.parse import unquote

import pytest
from fake_run import write_notebook, write_part
from nbformat.v4 import new_output

from lib.runs import pages as report

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n a picture").decode()
PLAYER = '<div>bark<br><audio controls preload="none" src="data:audio/mpeg;base64,SUQz"></audio></div>'
SAYS = "On 20 clips that no model saw, lwlrap is .75 (95 % interval .70 to .80) and the top-1 hit rate .70, more than "
SAYS += "class frequencies <b>."


def shown(**data):
    return new_output("display_data", data={key.replace("_", "/", 1): value for key, value in data.items()})


@pytest.fixture
def home(tmp_path):
    """A run with two pooled variants' worth of notebooks: folds, one that stopped, one that nothing pools."""
    kfold = tmp_path / "mine" / "04_kfold" / "curated"
    remote = (
        '<script src="https://cdn.example/x.js">go()</script><img src="http://example.org/x.png"><link href="//x.css">'
    )
    progress = "".join(f"\rtraining: {i}%|#| {i}/2 [00:0{i}<00:01]" for i in range(3)) + "\n"
    outputs = [shown(text_html=PLAYER), shown(image_png=PNG), shown(text_html=remote + "<p>kept</p>")]
    outputs += [
        new_output("stream", name="stderr", text=progress),
        new_output("stream", name="stderr", text="A warning\n"),
    ]
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "x"}, "text/html": "<p>a still picture</p>"}
    write_part(kfold / "pooled", conclusion=f"{SAYS} It is a second sentence.\n\n* one\n* two", seconds=2.0)
    (kfold / "pooled" / "per_class.png").write_bytes(b"per class")
    (kfold / "pooled" / "confusions.png").write_bytes(b"confusions")
    bare = {"application/vnd.jupyter.widget-view+json": {"model_id": "y"}, "text/plain": "VBox(children=())"}
    widgets = [new_output("display_data", data=data) for data in (widget, bare)]
    write_notebook(kfold / "pooled" / "executed.ipynb", outputs, widgets)
    for name in ("without_0", "without_0_1"):
        write_notebook(write_part(kfold / name, seconds=70.0) / "executed.ipynb")
    write_notebook(write_part(tmp_path / "mine" / "04_kfold" / "warm_up" / "without_0") / "executed.ipynb")
    error = new_output(
        "error", ename="ValueError", evalue="no <clip>", traceback=["Traceback", "ValueError: no <clip>"]
    )
    write_notebook(tmp_path / "mine" / "01_eda" / "executed.ipynb", [error], title="01 · How much?")
    return tmp_path / "mine"


def pages(home):
    return {path.name: path.read_text() for path in (home / "report").iterdir()}


def test_there_is_a_page_a_notebook_and_an_index(home):
    assert report.build(home) == home / "report" / "index.html"
    assert set(pages(home)) == {
        *("index.html", "01_eda.html", "04_kfold-curated-pooled.html", "04_kfold-curated-without_0.html"),
        *("04_kfold-curated-without_0_1.html", "04_kfold-warm_up-without_0.html"),
    }


def test_folders_that_hide_within_a_run_have_no_page_and_those_above_it_do_not_count(home):
    hidden = home.with_name(".mine") / "run"
    hidden.parent.mkdir()
    home.rename(hidden)
    write_notebook(write_part(hidden / "01_eda" / ".ipynb_checkpoints") / "executed.ipynb")
    report.build(hidden)
    assert {"01_eda.html", "04_kfold-curated-pooled.html"} < set(pages(hidden))
    assert not [name for name in pages(hidden) if "checkpoints" in name]


def test_no_page_loads_anything(home):
    report.build(home)
    for name, page in pages(home).items():
        loaded = re.findall(r"<(?:script|link|iframe|object|embed|base)\b", page, re.IGNORECASE)
        sources = re.findall(r"(?:src|srcset|poster|data|action)\s*=\s*[\"']?([^\s>\"']+)", page)
        loaded += [source for source in sources if not source.startswith("data:")]
        loaded += re.findall(r"url\(|@import|https?://", page, re.IGNORECASE)
        assert loaded == [], name
        assert f'<meta http-equiv="Content-Security-Policy" content="{report.POLICY}">' in page
    assert "default-src 'none'" in report.POLICY and "http" not in report.POLICY


def test_players_figures_and_still_pictures_of_widgets_are_there_and_progress_is_not(home):
    report.build(home)
    page = pages(home)["04_kfold-curated-pooled.html"]
    assert 'src="data:audio/mpeg;base64,SUQz"' in page and PNG in page
    assert "a still picture" in page and "<p>kept</p>" in page and "A warning" in page
    assert "00:01" not in page and "widget-view" not in page and "VBox" not in page


def test_a_conclusion_with_a_list_is_shown_as_one(home):
    report.build(home)
    index = pages(home)["index.html"]
    assert "<li>one</li>" in index and "class frequencies &lt;b&gt;" in index


def test_no_page_tells_where_things_lie_on_this_machine(home, monkeypatch):
    root, part = home.resolve().parents[1], home / "02_features"
    monkeypatch.setenv("HOME", str(root.parent))  # as errors in a notebook show it: ~/...
    result = write_part(part) / "result.json"
    told = json.loads(result.read_text())
    result.write_text(json.dumps({**told, "parameters": {**told.get("parameters", {}), "data_dir": "/data/of/me/set"}}))
    text = f"/data/of/me/set/a.wav {root}/outputs/mine /data/of/me/se... ~/{root.name}/lib/x.py"
    write_notebook(part / "executed.ipynb", [shown(text_html=f"<p>{text}</p>")])
    report.build(home)
    page = pages(home)["02_features.html"]
    assert "path/to/set/a.wav outputs/mine path/to/se... lib/x.py" in page and str(root) not in page


def test_every_link_leads_to_a_page(home):
    report.build(home)
    made = pages(home)
    for name, page in made.items():
        for target in re.findall(r'href="([^"]+)"', page):
            assert target in made or unquote(target[1:]) in unquote(page), f"{name}: {target}"


def test_the_index_has_question_answer_figure_and_cost(home):
    report.build(home)
    index = pages(home)["index.html"]
    articles = re.findall(r"<article>.*?</article>", index, re.DOTALL)
    assert len(articles) == 2  # 01, and the pooled part: no single training
    pooled = articles[1]
    assert (
        '<a href="04_kfold-curated-pooled.html">04 · Is it so? (curated)</a>' in pooled
    )  # another variant asks it too
    assert f"<p>{SAYS.replace('<b>', '&lt;b&gt;')} It is a second sentence.</p>" in pooled
    assert base64.b64encode(b"per class").decode() in pooled  # of its figures, the one that tells it best
    assert "measured · 2.4 min in all · 2 trainings · commit 0123456" in pooled
    assert '<a href="04_kfold-warm_up-without_0.html">warm_up/without_0</a>' in index.split("no part has pooled yet")[1]


def test_single_trainings_are_linked_from_what_pools_them(home):
    report.build(home)
    below = pages(home)["04_kfold-curated-pooled.html"].split("Single trainings:")[1]
    assert re.findall(r'href="([^"]+)"', below) == [
        *("04_kfold-curated-without_0.html", "04_kfold-curated-without_0_1.html")
    ]


def test_a_variant_whose_name_begins_like_a_trainings_has_a_place_in_the_index(home):
    variant = home / "04_kfold" / "without_masks"
    for name in ("pooled", "without_0"):
        write_notebook(write_part(variant / name) / "executed.ipynb")
    write_notebook(write_part(home / "02_features" / "trials" / "without_0_seed_1") / "executed.ipynb")
    single = {page.name: page.single for page in report.find(home) if "04_kfold/curated" not in str(page.folder)}
    assert not single["04_kfold without_masks"] and single["04_kfold without_masks without_0"]
    assert single["02_features trials without_0_seed_1"]


def test_a_notebook_that_stopped_says_so_on_both_pages(home):
    report.build(home)
    said = '<p class="stopped">This notebook stopped: ValueError: no &lt;clip&gt;</p>'
    assert said in pages(home)["index.html"] and said in pages(home)["01_eda.html"]
    write_notebook(home / "01_eda" / "executed.ipynb")
    report.build(home)
    assert "This part is not done: there is no result.json." in pages(home)["01_eda.html"]


def test_it_is_made_anew_and_whole_or_not_at_all(home, monkeypatch):
    report.build(home)
    (home / "report" / "old.html").write_text("from before")
    before = pages(home)

    def fails(path):
        raise OSError("no more")

    with monkeypatch.context() as patched:
        patched.setattr(report, "_rendered", fails)
        with pytest.raises(OSError, match="no more"):
            report.build(home)
    assert pages(home) == before
    report.build(home)
    assert "old.html" not in pages(home)
    assert not [path for path in home.iterdir() if path.name.endswith(".partial")]


def test_a_run_that_is_not_there_or_holds_no_executed_notebook_is_refused(home):
    with pytest.raises(FileNotFoundError, match=r"There is no run .*nothing\. There are: mine\."):
        report.build(home.with_name("nothing"))
    write_part(home.with_name("bare") / "01_eda")
    with pytest.raises(FileNotFoundError, match="holds no executed.ipynb.*make run RUN=bare"):
        report.build(home.with_name("bare"))


def test_the_command_prints_where_the_report_is(home, capsys):
    assert report.main([str(home)]) == 0
    assert str(home / "report" / "index.html") in capsys.readouterr().out
    assert report.main([str(home.with_name("nothing"))]) == 1
    assert "There is no run" in capsys.readouterr().err


def test_a_broken_notebook_does_not_keep_the_others_from_the_report(home):
    (home / "01_eda" / "executed.ipynb").write_text("{")
    report.build(home)
    assert "can't be read" in pages(home)["01_eda.html"]
    assert SAYS[:20] in pages(home)["index.html"]

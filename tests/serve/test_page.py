"""The page, in a real Chromium; without one these tests are skipped (`apt-get install chromium chromium-driver`)."""

import json
import re
import shutil

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from decoding import Sample, decode

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver")


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1200,1000"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def page(browser, live):
    browser.get(live.url)
    until(browser, lambda: browser.find_element(By.ID, "model").text)
    yield browser
    assert [entry["message"] for entry in browser.get_log("browser")] == []


def until(browser, condition):
    return WebDriverWait(browser, 60, 0.05).until(lambda _: condition())


def field(page, name, value):
    element = page.find_element(By.ID, name)
    if element.tag_name == "select":
        Select(element).select_by_value(value)
    else:
        element.clear()
        element.send_keys(value)


def ended(page):
    """Wait until a request has ended, and return the status line."""
    return until(page, lambda: page.find_element(By.ID, "status").text.endswith(" s") and page.find_element(By.ID, "status").text)  # fmt: skip


def tokens(page):
    return page.find_elements(By.CSS_SELECTOR, "#output .token")


def test_tokens_come_shaded_and_their_alternatives_on_hover_and_focus(page, models):
    field(page, "seed", "5")
    field(page, "max_tokens", "40")
    page.find_element(By.ID, "prompt").send_keys(Keys.CONTROL, Keys.ENTER)
    assert ended(page).startswith("40 tokens")
    (expected,) = decode(models["shakespeare"], "ROMEO:", Sample(0.8), max_new_tokens=40, seed=5)
    assert [token.get_property("alternatives")["text"] for token in tokens(page)] == expected.token_texts
    shades = [float(re.search(r"--p:\s*([\d.]+)", token.get_attribute("style")).group(1)) for token in tokens(page)]
    assert shades == pytest.approx([float(2.718281828**p) for p in expected.token_logprobs], abs=0.001)

    card = page.find_element(By.ID, "card")
    assert not card.is_displayed()
    webdriver.ActionChains(page).move_to_element(tokens(page)[3]).perform()
    assert card.is_displayed()
    assert len(card.find_elements(By.TAG_NAME, "tr")) in (8, 9)
    webdriver.ActionChains(page).move_to_element(page.find_element(By.TAG_NAME, "h1")).perform()
    assert not card.is_displayed()

    page.find_element(By.ID, "go").send_keys(Keys.TAB)  # from the button to the output
    until(page, lambda: page.switch_to.active_element.get_attribute("class") == "token")
    page.switch_to.active_element.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    page.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert page.switch_to.active_element.get_property("alternatives")["text"] in expected.text
    assert card.is_displayed()
    assert card.find_element(By.CSS_SELECTOR, "tr.chosen").text.startswith("▸")
    page.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not card.is_displayed()


def test_beams_are_drawn(page):
    field(page, "how", "beam")
    field(page, "max_tokens", "6")
    page.find_element(By.ID, "go").click()
    ended(page)
    tree = page.find_element(By.ID, "tree")
    assert tree.is_displayed()
    texts = [text.text for text in tree.find_elements(By.TAG_NAME, "text")]
    assert texts[0] == "prompt"
    assert [text[:9] for text in texts[-4:]] == ["0: length", "1: length", "2: length", "3: length"]
    assert len(tree.find_elements(By.CSS_SELECTOR, "path.best")) == 7
    assert tree.find_elements(By.CSS_SELECTOR, "path.up")
    assert page.find_element(By.ID, "output").text.count("\n") == 4


def test_attention_is_drawn(page):
    field(page, "model", "dates")
    field(page, "how", "greedy")
    field(page, "source", "May 3, 2026")
    page.find_element(By.ID, "go").click()
    ended(page)
    assert page.find_element(By.ID, "output").text == "2026-05-03"
    heads = [cell.text for cell in page.find_elements(By.CSS_SELECTOR, "#map thead th")]
    assert heads == list("May␣3,␣2026")
    assert [cell.text for cell in page.find_elements(By.CSS_SELECTOR, "#map tbody th")] == list("2026-05-03")


def test_a_wrong_prompt_is_said_and_a_long_output_stopped(page, live):
    field(page, "prompt", "what is ~ this?")
    page.find_element(By.ID, "go").click()
    until(page, lambda: "~" in page.find_element(By.ID, "error").text)
    assert [entry["message"] for entry in page.get_log("browser") if "400" not in entry["message"]] == []
    field(page, "model", "slow")
    field(page, "prompt", "1 2")
    field(page, "max_tokens", "90000")
    page.find_element(By.ID, "go").click()
    until(page, lambda: len(tokens(page)) > 20)
    page.find_element(By.ID, "halt").click()
    until(page, lambda: "stopped after" in page.find_element(By.ID, "status").text)
    until(page, lambda: live.engine("slow").statistics().batch_fill == 0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_can_be_read_in_both_schemes(page, scheme):
    """WCAG 2.2, 1.4.3 (AA): a contrast of 4.5 of every text with its ground, the shades of tokens included."""
    page.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    style = "getComputedStyle(document.documentElement).getPropertyValue('--' + arguments[0]).trim()"
    colour = {name: page.execute_script(f"return {style}", name) for name in ("ground", "panel", "text", "muted", "accent", "on-accent", "error")}  # fmt: skip
    shade = [int(part) for part in page.execute_script(f"return {style}", "shade").split(",")]
    grounds = [rgb(colour["ground"]), rgb(colour["panel"])]
    assert (luminance(grounds[0]) < 0.2) == (scheme == "dark")
    for name in ("text", "muted", "error"):
        assert all(contrast(rgb(colour[name]), ground) >= 4.5 for ground in grounds), name
    assert contrast(rgb(colour["text"]), shade) >= 4.5
    assert contrast(rgb(colour["accent"]), rgb(colour["on-accent"])) >= 4.5
    assert page.find_element(By.TAG_NAME, "body").value_of_css_property("background-color") == "rgba({}, {}, {}, 1)".format(*grounds[0])  # fmt: skip


def rgb(text):
    return [int(text[i : i + 2], 16) for i in (1, 3, 5)]


def luminance(colour):
    parts = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def contrast(one, other):
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_nothing_is_asked_of_other_sites(browser, live):
    browser.get(live.url)
    until(browser, lambda: browser.find_element(By.ID, "model").text)
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert {url for url in urls if not url.startswith(("data:", live.url))} == set()
    assert f"{live.url}/v1/models" in urls

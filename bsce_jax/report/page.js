// Draws the figures, and lets the legend of a scenario choose what is shown in them.
const specs = JSON.parse(document.getElementById("specs").textContent);
const views = {};

async function draw(id) {
  const plot = document.querySelector(`#${id} .plot`);
  try {
    const options = { actions: false, renderer: "svg", tooltip: { disableDefaultStyle: true } };
    views[id] = (await window.vegaEmbed(plot, specs[id], options)).view;
  } catch (error) {
    plot.textContent = `This figure cannot be drawn: ${error.message}`;
    plot.classList.add("failed");
    console.error(id, error);
  }
}

async function choose(scenario) {
  const buttons = [...scenario.querySelectorAll(".legend button")];
  const isShown = (button) => button.getAttribute("aria-pressed") === "true";
  const shown = buttons.filter(isShown).map((button) => button.dataset.runs);
  for (const button of buttons) {
    for (const figure of scenario.querySelectorAll(`figure[data-group="${button.dataset.group}"]`)) {
      figure.hidden = !isShown(button);
    }
  }
  for (const figure of scenario.querySelectorAll("figure:not([data-group])")) {
    const view = views[figure.id];
    if (view && "shown" in view.getState().signals) {
      await view.signal("shown", shown).runAsync();
    }
  }
  // a figure that was hidden may have missed a change of the window's size
  window.dispatchEvent(new Event("resize"));
}

for (const scenario of document.querySelectorAll(".scenario")) {
  scenario.querySelector(".legend")?.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) {
      button.setAttribute("aria-pressed", button.getAttribute("aria-pressed") !== "true");
      choose(scenario);
    }
  });
}

await Promise.all(Object.keys(specs).map(draw));
document.documentElement.dataset.drawn = Object.keys(views).length;

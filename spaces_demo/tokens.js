// The row of tokens: a click or Enter opens one; arrows, Home and End move among them.
const all = () => [...element.querySelectorAll(".token")];
const settle = (button) => {
  for (const other of all()) {
    other.tabIndex = other === button ? 0 : -1;
    other.setAttribute("aria-pressed", other === button);
  }
};
// On a phone what is tapped is shown at the lower edge, and the token above it. Gradio's own box hides what stands out
// of it, and would be what the panel keeps to; a clipped one is not.
const reveal = (button) => {
  element.closest(".gradio-container").style.overflow = "clip";
  element.closest("#tabs").classList.add("tapped");
  button.scrollIntoView({ block: "center" });
};
element.addEventListener("click", (event) => {
  const button = event.target.closest(".token");
  if (!button) return;
  settle(button);
  if (matchMedia("(max-width: 640px)").matches) reveal(button);
  const position = Number(button.dataset.position);
  trigger("select", { index: position, value: position, selected: true });
});
element.addEventListener("keydown", (event) => {
  const buttons = all();
  const here = buttons.indexOf(event.target.closest(".token"));
  const there = { ArrowRight: here + 1, ArrowLeft: here - 1, Home: 0, End: buttons.length - 1 }[event.key];
  if (here < 0 || there === undefined || !buttons[there]) return;
  event.preventDefault();
  buttons[here].tabIndex = -1;
  buttons[there].tabIndex = 0;
  buttons[there].focus();
});

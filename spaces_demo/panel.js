// What can be changed about a row: any change, Enter or the button sends all values at once; Reset puts them back.
const values = (form) => {
  const found = {};
  for (const field of form.querySelectorAll("[data-name]")) {
    const { name, kind } = field.dataset;
    if (kind === "slider") found[name] = Number(field.value);
    else if (kind === "switches") found[name] = [...field.querySelectorAll("input:not(:checked)")].map((box) => box.value);
    else found[name] = field.value;
  }
  return JSON.stringify(found);
};
const say = (form) => {
  for (const slider of form.querySelectorAll("input[type=range]"))
    slider.closest(".control").querySelector("output").textContent = slider.value;
};
let sent = "";
const send = (form) => {
  say(form);
  const value = values(form);
  if (value === sent) return; // Enter changes a field and sends the form, both
  sent = value;
  trigger("select", { index: 0, value, selected: true });
};
element.addEventListener("input", (event) => event.target.form && say(event.target.form));
element.addEventListener("change", (event) => event.target.form && send(event.target.form));
element.addEventListener("submit", (event) => {
  event.preventDefault();
  sent = "";
  send(event.target);
});
element.addEventListener("reset", (event) => setTimeout(() => send(event.target)));

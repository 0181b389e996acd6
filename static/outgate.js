// Comfort for the pages, which all work without it.
"use strict";

// "/" goes to the search field, as long as nothing is being typed elsewhere.
document.addEventListener("keydown", (event) => {
  const search = document.querySelector("input[type=search]");
  const typing = event.target.closest("input, textarea, select");
  if (event.key === "/" && search && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    search.focus();
    search.select();
  }
  if (event.key === "Escape") {
    const menu = document.querySelector("details[open]");
    if (menu) {
      menu.open = false;
      menu.querySelector("summary").focus();
    }
  }
});

// A click outside closes the menu.
document.addEventListener("click", (event) => {
  for (const menu of document.querySelectorAll("details[open]")) {
    if (!menu.contains(event.target)) {
      menu.open = false;
    }
  }
});

// What is cut short in the table shows the whole of itself under the pointer, and an icon its name.
document.addEventListener("pointerover", (event) => {
  const icon = event.target.closest("td > [aria-label]");
  const cell = event.target.closest("tbody :is(th a, th + td, code, .direct, td:has(> small))");
  if (icon) {
    icon.title = icon.ariaLabel;
  } else if (cell) {
    cell.title = cell.scrollWidth > cell.clientWidth ? cell.textContent.trim() : "";
  }
});

// Where rows are laid out as cards, some browsers forget that this is a table. Roles say it again.
const parts = { table: "table", "thead, tbody": "rowgroup", tr: "row", td: "cell", "thead th": "columnheader", "tbody th": "rowheader" };
for (const [part, role] of Object.entries(parts)) {
  for (const element of document.querySelectorAll(part)) {
    element.setAttribute("role", role);
  }
}

// A second click on a button does not send a form twice. Coming back to the page allows it again, and nobody leaves it for
// a file that is saved.
document.addEventListener("submit", (event) => {
  if (event.submitter?.hasAttribute("data-downloads")) {
    return;
  }
  if (event.target.dataset.sent) {
    event.preventDefault();
  } else if (event.target.method === "post") {
    event.target.dataset.sent = "1";
  }
});
addEventListener("pageshow", () => {
  for (const form of document.forms) {
    delete form.dataset.sent;
  }
});

// What went wrong is read first, and fixed where the link leads.
document.querySelector(".mistakes")?.focus();

// One tick for all rows of the page, where there are rows to tick.
const everyTick = document.querySelector("[data-selects]");
if (everyTick) {
  const ticks = document.querySelectorAll(`input[type=checkbox][name=${everyTick.dataset.selects}]`);
  const count = () => {
    const ticked = [...ticks].filter((tick) => tick.checked).length;
    everyTick.checked = ticked === ticks.length;
    everyTick.indeterminate = ticked > 0 && ticked < ticks.length;
  };
  everyTick.closest("label").hidden = false;
  everyTick.addEventListener("change", () => {
    for (const tick of ticks) {
      tick.checked = everyTick.checked;
    }
  });
  // They may stand outside the form that they belong to.
  for (const tick of ticks) {
    tick.addEventListener("change", count);
  }
  addEventListener("pageshow", count);
}

// What is under way on the page is shown as it goes on: the page is asked for again, and only what has changed in its
// live parts is put in its place, so that nobody loses the place where they read. Without script the page reloads.
const live = () => document.querySelectorAll("[data-live]");
const isUnderWay = () => document.querySelector("[data-live=under-way]") !== null;

// Elements stay where they can: what reads the page aloud then tells what has changed in them.
const become = (here, there) => {
  if (here.isEqualNode(there)) {
    return;
  }
  if (here.nodeType !== Node.ELEMENT_NODE || here.nodeName !== there.nodeName) {
    here.replaceWith(document.importNode(there, true));
    return;
  }
  for (const { name } of [...here.attributes]) {
    if (!there.hasAttribute(name)) {
      here.removeAttribute(name);
    }
  }
  for (const { name, value } of there.attributes) {
    if (here.getAttribute(name) !== value) {
      here.setAttribute(name, value);
    }
  }
  const [before, after] = [[...here.childNodes], [...there.childNodes]];
  after.forEach((node, index) => {
    if (index < before.length) {
      become(before[index], node);
    } else {
      here.append(document.importNode(node, true));
    }
  });
  before.slice(after.length).forEach((node) => node.remove());
};

const goOn = async () => {
  while (isUnderWay()) {
    await new Promise((then) => setTimeout(then, 500));
    const answer = await fetch(location.href, { headers: { accept: "text/html" } }).catch(() => null);
    if (answer?.redirected || (answer && !answer.ok && answer.status < 500)) {
      // Signed out meanwhile, or it is gone: the page itself says which.
      location.reload();
      return;
    }
    if (answer?.ok) {
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const part of live()) {
        become(part, page.getElementById(part.id) ?? part);
      }
    }
  }
};
goOn();

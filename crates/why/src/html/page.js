for (const table of document.querySelectorAll("table.sorted")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, at) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.onclick = () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const value = (row) => row.cells[at].dataset.value ?? row.cells[at].textContent;
      const order = (one, other) => {
        const [a, b] = [value(one), value(other)];
        const way = isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b;
        return up ? way : -way;
      };
      for (const body of table.tBodies) body.append(...[...body.rows].sort(order));
    };
  });
}

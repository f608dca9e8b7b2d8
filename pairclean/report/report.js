// Filter and search in the gallery. Without this script the page shows everything. The state is in the address
// (#q=red+shirt&verdict=noisy&section=rematches), so that a search can be linked to.
(() => {
  "use strict";
  const form = document.getElementById("filter");
  if (!form) return;
  const search = document.getElementById("search");
  const verdict = document.getElementById("verdict");
  const buttons = [...form.querySelectorAll("button[data-section]")];
  const fold = (text) => text.normalize("NFKC").toLowerCase();
  const galleries = [...document.querySelectorAll(".gallery")].map((element) => ({
    element,
    name: element.dataset.section,
    tiles: [...element.querySelectorAll(".tile")].map((tile) => ({
      element: tile,
      verdict: tile.dataset.verdict,
      text: fold([...tile.querySelectorAll(".text")].map((part) => part.textContent).join("\n")),
    })),
  }));
  const total = galleries.reduce((sum, gallery) => sum + gallery.tiles.length, 0);
  const pairs = total === 1 ? "1 pair" : `${total} pairs`;
  let section = "";

  const show = () => {
    const words = fold(search.value).split(/\s+/).filter(Boolean);
    let found = 0;
    for (const gallery of galleries) {
      let here = 0;
      for (const tile of gallery.tiles) {
        const fits =
          (!section || section === gallery.name) &&
          (!verdict.value || verdict.value === tile.verdict) &&
          words.every((word) => tile.text.includes(word));
        tile.element.hidden = !fits;
        here += fits;
      }
      gallery.element.hidden = !here;
      found += here;
    }
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.section === section));
    document.getElementById("found").textContent = found === total ? pairs : `${found} of ${pairs}`;
    document.getElementById("empty").hidden = found > 0;
  };

  const remember = () => {
    const state = new URLSearchParams();
    if (search.value.trim()) state.set("q", search.value.trim());
    if (verdict.value) state.set("verdict", verdict.value);
    if (section) state.set("section", section);
    try {
      history.replaceState(null, "", "#" + (state.toString() || "gallery"));
    } catch {
      // Some viewers forbid changing the address; the filter works without.
    }
  };

  const recall = () => {
    const hash = location.hash.slice(1);
    if (!hash.includes("=")) return; // an ordinary anchor
    const state = new URLSearchParams(hash);
    search.value = state.get("q") ?? "";
    verdict.value = state.get("verdict") ?? "";
    if (verdict.selectedIndex < 0) verdict.value = "";
    const wanted = state.get("section") ?? "";
    section = buttons.some((button) => button.dataset.section === wanted) ? wanted : "";
    show();
    document.getElementById("gallery").scrollIntoView();
  };

  const changed = () => {
    show();
    remember();
  };
  form.addEventListener("submit", (event) => event.preventDefault());
  search.addEventListener("input", changed);
  verdict.addEventListener("change", changed);
  for (const button of buttons) {
    button.addEventListener("click", () => {
      section = button.dataset.section;
      changed();
    });
  }
  // "/" focuses the search, as on many pages; Escape clears it.
  addEventListener("keydown", (event) => {
    const typing = event.target.closest?.("input, select, textarea");
    if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      search.focus();
    } else if (event.key === "Escape" && event.target === search && search.value) {
      search.value = "";
      changed();
    }
  });
  addEventListener("hashchange", recall);
  form.hidden = false;
  show();
  recall();
})();

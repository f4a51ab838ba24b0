(() => {
  const pick = (id) => document.getElementById(id);
  const list = pick("scenes"), cards = [...list.querySelectorAll(".card")];
  const tag = pick("f-tag"), risk = pick("f-risk"), order = pick("f-order"), text = pick("f-text");
  const show = () => {
    const words = text.value.trim().toLowerCase();
    let count = 0;
    for (const card of cards) {
      const fits = (!tag.value || card.dataset.tags.split(" ").includes(tag.value)) &&
        (risk.value === "0" || Number(card.dataset.risk) >= Number(risk.value)) &&
        (!words || card.textContent.toLowerCase().includes(words));
      card.hidden = !fits;
      count += fits;
    }
    pick("f-risk-out").value = risk.value;
    pick("f-count").value = `${count} of ${cards.length} scenes`;
  };
  order.addEventListener("change", () => {
    cards.sort((a, b) => Number(b.dataset[order.value]) - Number(a.dataset[order.value]));
    list.append(...cards);
  });
  for (const input of [tag, risk, text]) input.addEventListener("input", show);
  document.querySelector(".filters").hidden = false;
  show();
  const box = pick("lightbox"), image = box.querySelector("img"), caption = box.querySelector("p");
  const open = (picture) => { image.src = picture.src; image.alt = caption.textContent = picture.alt; box.showModal(); };
  list.addEventListener("click", (event) => { if (event.target.matches("figure img")) open(event.target); });
  list.addEventListener("keydown", (event) => { if (event.key === "Enter" && event.target.matches("figure img")) open(event.target); });
  box.addEventListener("click", () => box.close());
})();

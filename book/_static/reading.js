/* What the theme leaves undone for readers who use a keyboard or print a page. */

/* The theme lets a box that scrolls have the focus, but looks for such boxes only when the window's size
   changes: a listing that was just unfolded could not be scrolled with a keyboard. */
addEventListener("toggle", () => dispatchEvent(new Event("resize")), true);

/* Paper is white. */
addEventListener("beforeprint", () => {
  const { theme } = document.documentElement.dataset;
  document.documentElement.dataset.theme = "light";
  addEventListener("afterprint", () => (document.documentElement.dataset.theme = theme), { once: true });
});

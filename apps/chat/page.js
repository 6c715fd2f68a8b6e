// Follows the conversation while it grows, unless the reader has scrolled up. Passed to Gradio's js=.
() => {
  const root = document.scrollingElement;
  const talk = document.querySelector("#talk");
  let follow = true;
  addEventListener("scroll", () => {
    follow = root.scrollHeight - root.scrollTop - root.clientHeight < 120;
  }, { passive: true });
  const stick = () => { if (follow) root.scrollTop = root.scrollHeight; };
  new MutationObserver(() => {
    // Gradio labels each message with its source, which here is HTML: nothing to read out.
    for (const node of talk.querySelectorAll("[data-testid][aria-label]")) {
      node.removeAttribute("aria-label");
    }
    stick();
  }).observe(talk, { childList: true, subtree: true, characterData: true });
  new ResizeObserver(stick).observe(document.querySelector("#bottom"));
}

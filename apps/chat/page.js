// Follows the conversation while it grows, unless the reader has scrolled up. Passed to launch(js=).
() => {
  const root = document.scrollingElement;
  const near = () => root.scrollHeight - root.scrollTop - root.clientHeight < 120;
  let follow = true;
  addEventListener("scroll", () => { follow = near(); }, { passive: true });
  const talk = document.querySelector("#talk");
  new MutationObserver(() => {
    // Gradio labels each message with its source, which here is HTML: nothing to read out.
    for (const node of talk.querySelectorAll("[data-testid][aria-label]")) {
      node.removeAttribute("aria-label");
    }
    if (follow) root.scrollTop = root.scrollHeight;
  }).observe(talk, { childList: true, subtree: true, characterData: true });
}

// Fetches the parts of a page that are marked data-live="/live/..." again every 2 s.
// Everything works without it: reload the page instead.
(() => {
  "use strict";
  const EVERY_MS = 2000;
  const LATE_MS = 10000;
  const say = (words) => {
    const place = document.getElementById("live-state");
    if (place && place.textContent !== words) place.textContent = words;
  };

  const follow = (part) => {
    let before = null;
    const again = async () => {
      if (document.hidden) return true;
      const answer = await fetch(part.dataset.live, {
        credentials: "same-origin",
        cache: "no-store",
        redirect: "error",
        signal: AbortSignal.timeout(LATE_MS),
      });
      if (answer.status === 401) {
        say("You are logged out; what is shown here is old. Reload the page to log in.");
        return false;
      }
      const kind = answer.headers.get("content-type") || "";
      if (!answer.ok || !kind.startsWith("text/html")) throw new Error("no part");
      const text = await answer.text();
      say("");
      if (text === before || part.contains(document.activeElement)) return true;
      before = text;
      const found = new DOMParser().parseFromString(text, "text/html");
      part.replaceChildren(...found.body.childNodes);
      return true;
    };
    const loop = async () => {
      let on = true;
      try {
        on = await again();
      } catch {
        say("No answer. What is shown here may be old.");
      }
      if (on) setTimeout(loop, EVERY_MS);
    };
    setTimeout(loop, EVERY_MS);
  };

  document.querySelectorAll("[data-live]").forEach(follow);
})();

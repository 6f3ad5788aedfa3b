// Takes whoever has sent a form with mistakes to the first of them: forms are longer than the screen.
"use strict";

// When everything is there, the selects that the library makes as well.
window.addEventListener("load", () => {
    const mistake = document.querySelector("form .errors, form .errorlist");
    if (!mistake || document.activeElement !== document.body) return;
    const place = mistake.closest(".errors") || mistake;
    const field = place.querySelector(".select2-selection, input:not([type=hidden]), textarea, select") || place;
    field.focus({ preventScroll: true });
    place.scrollIntoView({ block: "center" });
});

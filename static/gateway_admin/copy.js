// Copies the text of the element that a button names. Works without the clipboard API, which plain http lacks.
"use strict";

function selectText(element) {
    const range = document.createRange();
    range.selectNodeContents(element);
    const selection = window.getSelection();
    selection.removeAllRanges();
    selection.addRange(range);
}

async function copyText(element) {
    if (navigator.clipboard && window.isSecureContext) {
        await navigator.clipboard.writeText(element.textContent);
        return true;
    }
    selectText(element);
    return document.execCommand("copy");
}

document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) {
        return;
    }
    const element = document.getElementById(button.dataset.copy);
    const status = document.querySelector("[data-copied]");
    let copied = false;
    try {
        copied = await copyText(element);
    } catch {
        selectText(element);
    }
    status.textContent = copied ? "Copied." : "Select the text and copy it with Ctrl-C.";
});

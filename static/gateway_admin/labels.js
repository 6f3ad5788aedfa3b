// Gives the searchable selects of the admin's library the names of their labels, which screen readers need.
"use strict";

function nameOf(select) {
    const label = document.querySelector(`label[for="${select.id}"]`);
    return select.getAttribute("aria-label") || (label ? label.textContent.replace("*", "").trim() : select.name);
}

function nameSelects() {
    for (const container of document.querySelectorAll("select + .select2-container")) {
        const name = nameOf(container.previousElementSibling);
        for (const part of container.querySelectorAll("[role=combobox], [role=textbox], [role=searchbox], input")) {
            part.setAttribute("aria-label", name);
            // A label by reference would win, and refers to the chosen value.
            part.removeAttribute("aria-labelledby");
        }
    }
}

// The library makes its selects at a time of its own, and again for each row that is added.
new MutationObserver(nameSelects).observe(document, { childList: true, subtree: true });

// anywidget lies beside this file; without this line require.js would look for it beside the page, then on the network.
require.config({ paths: { anywidget: new URL("anywidget", document.currentScript.src).href } });

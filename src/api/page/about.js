// An extension of the official web interface: its page "About" links to comfyd's own page.
import { app } from "../../scripts/app.js";

app.registerExtension({
  name: "comfyd.about",
  aboutPageBadges: [{ label: "comfyd", url: new URL("../../comfyd", import.meta.url).href, icon: "pi pi-server" }],
});

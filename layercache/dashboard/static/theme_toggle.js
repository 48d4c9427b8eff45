// Light, dark, or as the system says: the browser remembers the choice, the server need not know.
const KEY = "layercache-theme";
const CHOICES = [
  { name: "system", dark: null, icon: "brightness_auto" },
  { name: "light", dark: false, icon: "light_mode" },
  { name: "dark", dark: true, icon: "dark_mode" },
];

function remembered() {
  try {
    return Math.max(0, CHOICES.findIndex((one) => one.name === localStorage.getItem(KEY)));
  } catch {
    return 0; // storage is forbidden: follow the system
  }
}

export default {
  template: `
    <button type="button" class="lc-tool" :aria-label="label" :title="label" @click="next">
      <i class="material-icons" aria-hidden="true">{{ choice.icon }}</i>
    </button>`,
  data: () => ({ index: remembered() }),
  computed: {
    choice() {
      return CHOICES[this.index];
    },
    label() {
      return `Colours: ${this.choice.name}`;
    },
  },
  mounted() {
    setDark(this.choice.dark);
  },
  methods: {
    next() {
      this.index = (this.index + 1) % CHOICES.length;
      setDark(this.choice.dark);
      try {
        localStorage.setItem(KEY, this.choice.name);
      } catch {
        // the choice holds until the page is left
      }
    },
  },
};
